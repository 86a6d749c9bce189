"""What the client scripts share."""


def check(what, condition, seen=None):
    """Says that something holds, or ends the program with what was seen instead."""
    if not condition:
        raise SystemExit(f"FAILED {what}: {seen!r}")
    print(f"ok {what}")


def raises(what, kind, call):
    """The error of this kind that a call must end in."""
    try:
        answer = call()
    except kind as error:
        print(f"ok {what}")
        return error
    raise SystemExit(f"FAILED {what}: {answer!r}")


CITY_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 0, "maximum": 100000000},
        "capital": {"type": "boolean"},
    },
    "required": ["name", "population", "capital"],
    "additionalProperties": False,
}

WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
