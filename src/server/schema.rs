//! Schemas that poem-openapi cannot derive honestly: string enums shared with serde, a string or a
//! list, free objects.

use std::{borrow::Cow, fmt, marker::PhantomData};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::Value;

/// Gives a type that is only written its OpenAPI schema by hand.
macro_rules! wire_schema {
    ($type:ty, $name:literal, $schema:expr $(, $dependency:ty)*) => {
        impl poem_openapi::types::Type for $type {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn schema_ref() -> poem_openapi::registry::MetaSchemaRef {
                poem_openapi::registry::MetaSchemaRef::Inline(Box::new($schema))
            }

            #[allow(unused_variables)]
            fn register(registry: &mut poem_openapi::registry::Registry) {
                $(<$dependency as poem_openapi::types::Type>::register(registry);)*
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }
    };
}

/// Gives a serde type its OpenAPI schema by hand.
macro_rules! wire_type {
    ($type:ty, $name:literal, $schema:expr $(, $dependency:ty)*) => {
        crate::server::schema::wire_schema!($type, $name, $schema $(, $dependency)*);

        impl poem_openapi::types::ParseFromJSON for $type {
            fn parse_from_json(
                value: Option<serde_json::Value>,
            ) -> poem_openapi::types::ParseResult<Self> {
                serde_json::from_value(value.unwrap_or_default())
                    .map_err(poem_openapi::types::ParseError::custom)
            }
        }

        impl poem_openapi::types::ToJSON for $type {
            fn to_json(&self) -> Option<serde_json::Value> {
                serde_json::to_value(self).ok()
            }
        }
    };
}

/// A string that is one of a few; with one variant, a constant.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $vis enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// The string on the wire.
            #[allow(dead_code, reason = "not every enum is asked for it")]
            pub(crate) fn wire_text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        crate::server::schema::wire_type!($name, "string_enum", poem_openapi::registry::MetaSchema {
            enum_items: vec![$(serde_json::Value::from($text)),+],
            ..poem_openapi::registry::MetaSchema::new("string")
        });
    };
}

/// Strings that are always the same, such as the `type` of an object.
macro_rules! wire_constants {
    ($($name:ident = $text:literal),+ $(,)?) => {
        $(crate::server::schema::wire_enum! {
            /// What kind of object this is.
            pub(crate) enum $name {
                Only = $text,
            }
        })+
    };
}

pub(crate) use wire_constants;
pub(crate) use wire_enum;
pub(crate) use wire_schema;
pub(crate) use wire_type;

/// A string, or a list of `T`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum TextOr<T> {
    Text(String),
    Items(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's untagged enums buffer the input and lose the path of an inner error.
        struct TextOrVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(TextOr::Items)
            }
        }

        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

impl<T: Type> Type for TextOr<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        format!("string_or_{}", <Vec<T>>::name()).into()
    }

    fn schema_ref() -> MetaSchemaRef {
        one_of(vec![String::schema_ref(), <Vec<T>>::schema_ref()])
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: ParseFromJSON> ParseFromJSON for TextOr<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value {
            Some(Value::String(text)) => Ok(Self::Text(text)),
            items => Vec::parse_from_json(items).map(Self::Items).map_err(ParseError::propagate),
        }
    }
}

impl<T: Type + Serialize> ToJSON for TextOr<T> {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }
}

/// Reads a struct from an object only; serde would take an array of its fields in order as well.
struct FromObject<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StructVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for StructVisitor<T> {
            type Value = FromObject<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(FromObject)
            }
        }

        deserializer.deserialize_map(StructVisitor(PhantomData))
    }
}

/// For a field that is an object.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    FromObject::deserialize(deserializer).map(|object| object.0)
}

/// For a field that is an object, null or absent.
pub(crate) fn optional_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let object: Option<FromObject<T>> = Option::deserialize(deserializer)?;
    Ok(object.map(|object| object.0))
}

/// For a field that is an array of objects.
pub(crate) fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects: Vec<FromObject<T>> = Vec::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|object| object.0).collect())
}

/// For a field that is an array of objects, null or absent.
pub(crate) fn optional_objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let objects: Option<Vec<FromObject<T>>> = Option::deserialize(deserializer)?;
    Ok(objects.map(|objects| objects.into_iter().map(|object| object.0).collect()))
}

/// For a field that is text, an array of objects, null or absent.
pub(crate) fn text_or_objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<TextOr<T>>, D::Error> {
    let value: Option<TextOr<FromObject<T>>> = Option::deserialize(deserializer)?;
    Ok(value.map(|value| match value {
        TextOr::Text(text) => TextOr::Text(text),
        TextOr::Items(items) => TextOr::Items(items.into_iter().map(|item| item.0).collect()),
    }))
}

/// A schema that is one of several.
pub(crate) fn one_of(schemas: Vec<MetaSchemaRef>) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema { one_of: schemas, ..MetaSchema::ANY }))
}

/// A free JSON object.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct FreeObject(pub serde_json::Map<String, Value>);

impl<'de> Deserialize<'de> for FreeObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = FreeObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut object = serde_json::Map::new();
                while let Some((key, value)) = map.next_entry()? {
                    object.insert(key, value);
                }
                Ok(FreeObject(object))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

wire_type!(FreeObject, "object", {
    let any = MetaSchemaRef::Inline(Box::new(MetaSchema::ANY));
    MetaSchema { additional_properties: Some(Box::new(any)), ..MetaSchema::new("object") }
});
