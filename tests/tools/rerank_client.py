"""Ranking in the shapes of Jina, Cohere and TEI against a running server: python rerank_client.py BASE_URL MODEL.

Their SDKs are bound to their own hosts, so that plain requests stand in for them.
"""

import sys

import httpx

from checks import check

DOCUMENTS = ["Paris is the capital of France.", "A cat sleeps.", "Bread is baked."]


def main():
    base_url, model = sys.argv[1:3]
    client = httpx.Client(base_url=base_url, timeout=300)
    asked = {"model": model, "query": "What is the capital of France?", "documents": DOCUMENTS}
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        answer = client.post(path, json={**asked, "top_n": 2})
        check(f"{path} answers", answer.status_code == 200, answer.text)
        results = answer.json()["results"]
        scores = [result["relevance_score"] for result in results]
        check("as many as wanted, best first", len(scores) == 2 and scores == sorted(scores, reverse=True), results)
        check("each with its place", all(0 <= result["index"] < 3 for result in results), results)
    full = client.post("/v1/rerank", json={**asked, "return_documents": True}).json()["results"]
    check("documents come back", {result["document"]["text"] for result in full} == set(DOCUMENTS), full)
    texts = client.post("/rerank", json={"query": asked["query"], "texts": DOCUMENTS, "model": model})
    check("TEI's shape", texts.status_code == 200 and len(texts.json()) == 3 and "score" in texts.json()[0], texts.text)
    wrong = client.post("/v1/rerank", json={**asked, "documents": []})
    check("no documents is 400", wrong.status_code == 400 and wrong.json()["error"]["param"] == "documents", wrong.text)
    print("all ok")


main()
