"""What JSON Schema a Python type gets, and which types have none."""

# ruff: noqa: UP006, UP007, UP035, UP045 (the old spellings of types are what is tested)
# ruff: noqa: PIE796 (an enum with an alias is tested, too)

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Dict, List, Literal, NamedTuple, NewType, Optional, Tuple, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.errors import InvalidRequest
from ramet.lang.schema_types import schema_of

try:
    from typing_extensions import TypedDict as AnyTypedDict  # before 3.12 pydantic takes no other
except ImportError:
    from typing import TypedDict as AnyTypedDict

INT, NUMBER, TEXT, BOOL, NULL = (
    {"type": name} for name in ("integer", "number", "string", "boolean", "null")
)


class Color(enum.Enum):
    RED = "red"
    CRIMSON = "red"  # an alias: the same member
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Flavor(enum.Enum):
    SWEET = object()


@dataclass
class Item:
    """Words about it are no part of the schema."""

    name: str
    price: float
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    items: list[Item]
    by_name: dict[str, Item]
    note: str | None = None
    total: float = field(init=False)


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class Left:
    right: Right | None


@dataclass
class Right:
    left: Left


class Movie(typing.TypedDict, total=False):
    title: typing.Required[str]
    year: int
    cast: typing.NotRequired[list[str]]


class Book(typing.TypedDict):
    title: str
    pages: typing.NotRequired[Annotated[int, "printed ones"]]


class Point(NamedTuple):
    x: float
    y: float = 0.0


Untyped = collections.namedtuple("Untyped", "a b")
UserId = NewType("UserId", int)

ITEM = {
    "type": "object",
    "properties": {"name": TEXT, "price": NUMBER, "tags": {"type": "array", "items": TEXT}},
    "required": ["name", "price"],
    "additionalProperties": False,
}
POINT = {"type": "array", "prefixItems": [NUMBER, NUMBER], "minItems": 1, "maxItems": 2}


def array(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


GOLDEN = [
    # plain
    (int, INT),
    (float, NUMBER),
    (str, TEXT),
    (bool, BOOL),
    (None, NULL),
    (type(None), NULL),
    (Any, {}),
    (UserId, INT),
    # values
    (Literal["a", 1, True, None], {"enum": ["a", 1, True, None]}),
    (Literal[Color.BLUE], {"enum": ["blue"]}),
    (Color, {"enum": ["red", "blue"]}),
    (Level, {"enum": [1, 2]}),
    # containers, new and old spellings
    (list, {"type": "array"}),
    (List, {"type": "array"}),
    (list[int], array(INT)),
    (List[int], array(INT)),
    (Sequence[int], array(INT)),
    (typing.Iterable[int], array(INT)),
    (set, {"type": "array", "uniqueItems": True}),
    (set[str], array(TEXT, uniqueItems=True)),
    (frozenset[str], array(TEXT, uniqueItems=True)),
    (collections.abc.Set[str], array(TEXT, uniqueItems=True)),
    (tuple, {"type": "array"}),
    (Tuple, {"type": "array"}),
    (tuple[int, ...], array(INT)),
    (tuple[()], {"type": "array", "maxItems": 0}),
    (
        tuple[int, str],
        {"type": "array", "prefixItems": [INT, TEXT], "minItems": 2, "maxItems": 2},
    ),
    (dict, {"type": "object"}),
    (Dict, {"type": "object"}),
    (dict[str, int], {"type": "object", "additionalProperties": INT}),
    (Mapping[str, list[int]], {"type": "object", "additionalProperties": array(INT)}),
    (dict[str, Any], {"type": "object", "additionalProperties": {}}),
    # unions and marks
    (Optional[int], {"anyOf": [INT, NULL]}),
    (Union[int, str], {"anyOf": [INT, TEXT]}),
    (int | str | None, {"anyOf": [INT, TEXT, NULL]}),
    (list[int | None], array({"anyOf": [INT, NULL]})),
    (Annotated[int, "years", {"unhashable": 1}], INT),
    # classes with fields
    (Item, ITEM),
    (list[Item], {**array(ref("Item")), "$defs": {"Item": ITEM}}),
    (
        Order,
        {
            "type": "object",
            "properties": {
                "items": array(ref("Item")),
                "by_name": {"type": "object", "additionalProperties": ref("Item")},
                "note": {"anyOf": [TEXT, NULL]},
            },
            "required": ["items", "by_name"],
            "additionalProperties": False,
            "$defs": {"Item": ITEM},
        },
    ),
    (
        Movie,
        {
            "type": "object",
            "properties": {"title": TEXT, "year": INT, "cast": array(TEXT)},
            "required": ["title"],
            "additionalProperties": False,
        },
    ),
    (
        Book,
        {
            "type": "object",
            "properties": {"title": TEXT, "pages": INT},
            "required": ["title"],
            "additionalProperties": False,
        },
    ),
    (Point, POINT),
    (Untyped, {"type": "array", "prefixItems": [{}, {}], "minItems": 2, "maxItems": 2}),
    # classes that hold themselves
    (
        Tree,
        {
            **ref("Tree"),
            "$defs": {
                "Tree": {
                    "type": "object",
                    "properties": {"value": INT, "children": array(ref("Tree"))},
                    "required": ["value"],
                    "additionalProperties": False,
                }
            },
        },
    ),
    (
        Right,
        {
            **ref("Right"),
            "$defs": {
                "Right": {
                    "type": "object",
                    "properties": {"left": ref("Left")},
                    "required": ["left"],
                    "additionalProperties": False,
                },
                "Left": {
                    "type": "object",
                    "properties": {"right": {"anyOf": [ref("Right"), NULL]}},
                    "required": ["right"],
                    "additionalProperties": False,
                },
            },
        },
    ),
]


@pytest.mark.parametrize(("kind", "schema"), GOLDEN, ids=[str(kind) for kind, _ in GOLDEN])
@pytest.mark.parametrize("with_pydantic", [True, False])
def test_the_schema_of_a_type(kind, schema, with_pydantic: bool, monkeypatch) -> None:
    if not with_pydantic:
        monkeypatch.setitem(sys.modules, "pydantic", None)
    # The texts are compared: the order of keys is the order in which a model writes them.
    assert schema_of(kind) == json.dumps(schema)


def test_json_text_comes_back_as_it_is() -> None:
    for text in ('{"type":  "object"}', "true", "{}"):
        assert schema_of(text) == text


def test_mappings_keep_the_order_of_their_keys() -> None:
    schema = {"type": "object", "properties": {"z": {}, "a": collections.ChainMap({"b": (1, 2)})}}
    assert schema_of(schema) == '{"type": "object", "properties": {"z": {}, "a": {"b": [1, 2]}}}'
    assert schema_of(True) == "true"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "neither an object nor true"),
        ('"object"', "neither an object nor true"),
        ("false", "allows no text at all"),
        (False, "allows no text at all"),
        ({"enum": {1, 2}}, "cannot be written as JSON"),
        ({"const": float("nan")}, "cannot be written as JSON"),
        (3, "is not a schema; give JSON text, a dict or a type"),
        ([int], "is not a schema"),
        (Item("n", 1.0), "is not a schema"),
        (typing.TypeVar("T"), "is not a schema"),
    ],
)
def test_what_is_no_schema(value, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        schema_of(value)
    assert caught.value.field == "json_schema"
    assert caught.value.value is value


def order_of(kind: Any) -> Any:
    """An `Order` whose `items` hold an `Item` with a `price` of the type."""
    item = dataclasses.make_dataclass("Item", [("name", str), ("price", kind)])
    return dataclasses.make_dataclass("Order", [("items", list[item])])  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (complex, r"^json_schema: .*Order.* holds complex at Order\.items\[0\]\.price, which"),
        (object, r"holds object at Order\.items\[0\]\.price"),
        (bytes, r"holds bytes at Order\.items\[0\]\.price"),
        (range, r"holds range at Order\.items\[0\]\.price"),
        (dict[str, complex], r"complex at Order\.items\[0\]\.price\[str\]"),
        (tuple[int, list[complex]], r"complex at Order\.items\[0\]\.price\[1\]\[0\]"),
        (int | complex | None, r"complex at Order\.items\[0\]\.price,"),
        (Annotated[complex, "?"], r"complex at Order\.items\[0\]\.price,"),
        (dict[int, str], r"int at the keys of Order\.items\[0\]\.price.*keys in JSON are text"),
        (Literal[b"x"], r"b'x' at Order\.items\[0\]\.price"),
        (Flavor, r"object .* at Order\.items\[0\]\.price: Flavor\.SWEET"),
        (enum.Enum("Empty", []), r"Empty at Order\.items\[0\]\.price"),
        (typing.TypeVar("T"), r"~T at Order\.items\[0\]\.price"),
        (typing.Callable[[int], str], r"Callable.* at Order\.items\[0\]\.price"),
        ("Missing", r"holds Item at Order\.items\[0\], in which 'Missing' is not defined"),
        ("int +", r"holds Item at Order\.items\[0\], in which its annotations cannot be read"),
        (dataclasses.InitVar[int], r"Item at Order\.items\[0\], in which 'price' is an InitVar"),
    ],
)
@pytest.mark.parametrize("with_pydantic", [True, False])
def test_a_type_without_a_schema_is_named_with_its_path(
    kind, words: str, with_pydantic: bool, monkeypatch
) -> None:
    if not with_pydantic:
        monkeypatch.setitem(sys.modules, "pydantic", None)
    order = order_of(kind)
    with pytest.raises(InvalidRequest, match=words) as caught:
        schema_of(order)
    assert caught.value.field == "json_schema"
    assert caught.value.value is order
    assert caught.value.remedy


def test_paths_begin_with_what_was_given() -> None:
    with pytest.raises(InvalidRequest, match=r"complex at list\[complex\]\[0\]"):
        schema_of(list[complex])
    with pytest.raises(InvalidRequest, match=r"complex at Pair\.second"):
        schema_of(NamedTuple("Pair", [("first", int), ("second", complex)]))


def test_classes_inside_a_function_may_hold_themselves_and_each_other() -> None:
    @dataclass
    class Outer:
        inner: Inner
        again: Outer | None = None

        @dataclass
        class Inner:
            back: Outer | None = None

    schema = json.loads(schema_of(Outer))
    assert list(schema["$defs"]) == ["Outer"] or schema["$ref"] == "#/$defs/Outer"
    assert schema["$defs"]["Outer"]["properties"]["again"]["anyOf"][0] == ref("Outer")
    assert schema["$defs"]["Inner"]["properties"]["back"]["anyOf"][0] == ref("Outer")


def test_two_classes_of_one_name_keep_apart() -> None:
    first = dataclasses.make_dataclass("Same", [("a", int)])
    second = dataclasses.make_dataclass("Same", [("b", str)])
    taken = dataclasses.make_dataclass("Same_2", [("c", bool)])
    schema = json.loads(schema_of(tuple[taken, first, second, first]))  # type: ignore[valid-type]
    assert schema["prefixItems"] == [ref("Same_2"), ref("Same"), ref("Same_3"), ref("Same")]
    fields = {name: list(d["properties"]) for name, d in schema["$defs"].items()}
    assert fields == {"Same_2": ["c"], "Same": ["a"], "Same_3": ["b"]}


def test_a_name_that_a_pointer_would_have_to_escape() -> None:
    odd = dataclasses.make_dataclass("Bär", [("a", int)])
    assert json.loads(schema_of(list[odd]))["items"] == ref("B_r")  # type: ignore[valid-type]


class TypeAliasType:
    """What `type Nested = int | list[Nested]` makes from Python 3.12 on."""

    __name__ = "Nested"

    @property
    def __value__(self) -> Any:
        return int | list[self]  # type: ignore[valid-type]


def test_an_alias_may_hold_itself() -> None:
    nested = {"anyOf": [INT, array(ref("Nested"))]}
    assert json.loads(schema_of(TypeAliasType())) == {**ref("Nested"), "$defs": {"Nested": nested}}


def test_aliases_are_definitions() -> None:
    extensions = pytest.importorskip("typing_extensions", reason="it has type aliases for 3.11")
    alias = extensions.TypeAliasType("Ids", list[int])
    assert json.loads(schema_of(dict[str, alias])) == {  # type: ignore[valid-type]
        "type": "object",
        "additionalProperties": ref("Ids"),
        "$defs": {"Ids": array(INT)},
    }
    alias = extensions.TypeAliasType("Far", list["Far"])  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(InvalidRequest, match=r"'Far' at .*\[0\]"):  # text that nobody can look up
        schema_of(alias)


def test_a_class_is_described_once() -> None:
    asked = []

    class Model:
        @staticmethod
        def model_json_schema():
            asked.append(1)
            return {"type": "object"}

    assert schema_of(Model) == schema_of(Model) == '{"type": "object"}'
    assert asked == [1]


def test_a_class_that_fails_to_describe_itself() -> None:
    class Model:
        @staticmethod
        def model_json_schema():
            raise KeyError("broken")

    with pytest.raises(InvalidRequest, match=r"Model.* gives no schema.*broken") as caught:
        schema_of(list[Model])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_model_of_pydantics_first_version() -> None:
    class Model:
        __fields__: typing.ClassVar = {"a": 1}

        @classmethod
        def schema(cls, ref_template="#/definitions/{model}"):
            part = {"$ref": ref_template.format(model="Part")}
            return {"properties": {"a": part}, "definitions": {"Part": INT}}

    assert json.loads(schema_of(Model)) == {
        "properties": {"a": ref("Part")},
        "$defs": {"Part": INT},
    }


# With pydantic


def test_a_description_that_is_shared_is_not_changed() -> None:
    schema = {"$defs": {"A": INT}, **ref("A")}

    class Model:
        @staticmethod
        def model_json_schema():
            return schema

    assert json.loads(schema_of(list[Model])) == {**array(ref("A")), "$defs": {"A": INT}}
    assert schema == {"$defs": {"A": INT}, **ref("A")}


def test_pydantic_models_and_adapters_describe_themselves() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    models = pydantic_models(pydantic)
    for model in (models["Shop"], models["Node"]):
        assert json.loads(schema_of(model)) == model.model_json_schema()
        adapter = pydantic.TypeAdapter(list[model])
        assert json.loads(schema_of(adapter)) == adapter.json_schema()


def test_pydantic_models_inside_other_types() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    models = pydantic_models(pydantic)
    other = pydantic.create_model("Shop", size=(models["Node"], ...), part=(models["Other"], ...))
    three = (models["Shop"], models["Node"], other)
    schema = json.loads(schema_of(tuple[three]))  # type: ignore[valid-type]
    validator = pytest.importorskip("jsonschema_rs", reason="no validator").validator_for(schema)
    shop = {"part": {"a": 1}, "when": "2024-01-01"}
    node = {"next": {"next": None}}
    assert validator.is_valid([shop, node, {"size": node, "part": {"b": "x"}}])
    assert not validator.is_valid([shop, node, {"size": node, "part": {"a": 1}}])
    assert not validator.is_valid([{**shop, "part": {"b": "x"}}, node, {}])


def pydantic_models(pydantic: Any) -> dict[str, Any]:
    """`Shop` holds a `Part`; `Other` is called "Part", too; `Node` may hold itself."""
    import datetime

    part = pydantic.create_model("Part", a=(int, ...))

    class Node(pydantic.BaseModel):
        next: Node | None = None

    return {
        "Part": part,
        "Other": pydantic.create_model("Part", b=(str, ...)),
        "Shop": pydantic.create_model("Shop", part=(part, ...), when=(datetime.date, ...)),
        "Node": Node,
    }


def test_pydantic_is_asked_about_what_the_standard_library_does_not_say() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    import datetime

    age = Annotated[int, pydantic.Field(ge=0, le=150)]
    person = dataclasses.make_dataclass("Person", [("born", datetime.date), ("age", age)])
    properties = json.loads(schema_of(person))["properties"]
    assert properties == {
        "born": {"type": "string", "format": "date"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    }


def test_without_pydantic_they_are_refused(monkeypatch) -> None:
    import datetime

    monkeypatch.setitem(sys.modules, "pydantic", None)
    person = dataclasses.make_dataclass("Person", [("born", datetime.date)])
    with pytest.raises(InvalidRequest, match=r"holds date at Person\.born"):
        schema_of(person)


# Any type, any value

_KEYS = st.sampled_from(["a", "b", "ä"])
_LEAVES = st.sampled_from(
    [
        (int, st.integers()),
        (float, st.floats(allow_nan=False, allow_infinity=False)),
        (str, st.text()),
        (bool, st.booleans()),
        (type(None), st.none()),
        (Color, st.sampled_from(["red", "blue"])),
        (Literal["x", 7], st.sampled_from(["x", 7])),
        (Point, st.lists(st.floats(0, 1), min_size=1, max_size=2)),
        (Item, st.fixed_dictionaries({"name": st.text(), "price": st.just(0.5)})),
        (Tree, st.just({"value": 1, "children": [{"value": 2}]})),
    ]
)


def _inside(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def two(pair: Any) -> Any:
        (one, values), (other, others) = pair
        return st.sampled_from(
            [
                (list[one], st.lists(values, max_size=3)),
                (dict[str, one], st.dictionaries(_KEYS, values, max_size=3)),
                (tuple[one, other], st.tuples(values, others).map(list)),
                (tuple[one, ...], st.lists(values, max_size=3)),
                (one | other, values | others),
                (
                    AnyTypedDict("Drawn", {"a": one, "b": typing.NotRequired[other]}),  # type: ignore[operator]
                    st.fixed_dictionaries({"a": values}, optional={"b": others}),
                ),
            ]
        )

    return st.tuples(children, children).flatmap(two)


_TYPES = st.recursive(_LEAVES, _inside, max_leaves=5)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_schemas_allow_the_values_of_their_type_and_no_others(data) -> None:
    validators = pytest.importorskip("jsonschema_rs", reason="no validator is installed")
    pydantic = pytest.importorskip("pydantic", reason="pydantic is the judge of foreign values")
    kind, values = data.draw(_TYPES)
    schema = json.loads(schema_of(kind))
    assert validators.meta.is_valid(schema)
    validator = validators.validator_for(schema)
    value = json.loads(json.dumps(data.draw(values)))
    assert validator.is_valid(value)
    _, foreign = data.draw(_TYPES)
    value = json.loads(json.dumps(data.draw(foreign)))
    if validator.is_valid(value):  # then the type can be built from it
        pydantic.TypeAdapter(kind).validate_python(value)
