import os

import schemathesis

TEXTS = {"name", "description"}
NUMBERS = {"price", "stock", "quantity", "hold"}

# Made before, by the test: what is made up names no reservation, and chains seldom reach one.
RESERVATIONS = {
    "retrieve_reservation": os.environ.get("HELD"),
    "extend": os.environ.get("HELD"),
    "confirm": os.environ.get("BOUGHT"),
    "cancel": os.environ.get("GIVEN_BACK"),
}


@schemathesis.hook
def filter_case(context, case):
    """Leaves out what schemathesis takes for a mistake, or for none, and the server does not."""
    if not isinstance(case.body, dict):
        return True
    if case.media_type == "multipart/form-data" and has_control_characters("".join(case.body)):
        return False
    is_negative = case.meta is not None and case.meta.generation.mode.is_negative
    return not (is_negative and any(is_alike(*field) for field in case.body.items()))


@schemathesis.hook
def map_case(context, case):
    """Sends valid requests to reservations that exist; and in a chain no key a second time, for
    what is answered again may be of a product that the chain has deleted since."""
    if case.meta is None:
        return case
    if case.meta.phase.name.value == "stateful":
        if case.headers:
            case.headers.pop("Idempotency-Key", None)
        return case
    reservation = RESERVATIONS.get(case.operation.definition.raw.get("operationId"))
    if reservation and case.meta.generation.mode.is_positive:
        case.path_parameters.update(id=os.environ["PRODUCT"], rid=reservation)
    return case


def has_control_characters(names):
    """The names of made-up fields are written into the headers of their parts as they are. No
    header may have a control character (RFC 9110, section 5.5); browsers write %0D for one."""
    return any(character < " " or character == "\x7f" for character in names)


def is_alike(name, value):
    """A number that is sent as a text, or a text that is sent as a number: to Django REST
    framework, and so to the server, they are alike. In a form, an empty number is left out."""
    if name in TEXTS:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if name not in NUMBERS or not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return not value.strip()
    return True
