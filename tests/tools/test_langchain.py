"""LangChain's standard tests through langchain-openai against a running server.

KOLOSAL_URL and KOLOSAL_MODEL say which. A test that a small model cannot pass is marked with the reason;
`strict` is off, as another model may well pass it.
"""

import os

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

URL = os.environ["KOLOSAL_URL"] + "/v1"
MODEL = os.environ["KOLOSAL_MODEL"]


class TestChat(ChatModelIntegrationTests):
    """With structured output by JSON schema, which is langchain-openai's own choice."""

    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {"model": MODEL, "base_url": URL, "api_key": "none", "temperature": 0, "max_tokens": 200,
                "stream_usage": True, "max_retries": 0, "seed": 1, "frequency_penalty": 0.7}

    @property
    def standard_chat_model_params(self):
        return {}

    @property
    def supports_json_mode(self):
        return True

    @property
    def model_override_value(self):
        return MODEL


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self):
        # The client would otherwise count tokens with OpenAI's own tokenizer.
        return {"model": MODEL, "base_url": URL, "api_key": "none", "check_embedding_ctx_length": False}
