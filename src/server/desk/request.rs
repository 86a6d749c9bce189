//! Requests as bodies: their parameters by the table, the rest by serde.

use std::fmt;

use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaSchemaRef, Registry},
    types::Type,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{
    decisive::decides,
    wire::{WireParam, add},
};
use crate::{
    error::{Error, Result},
    param::{self, Given, Place},
    server::{
        body::{describe, json_object, read_body},
        ignored::Ignored,
        lenient,
    },
};

/// A request whose parameters are in the table.
pub(crate) trait Request: Sized + Send {
    /// Its fields that are structures; its name in the document is theirs.
    type Parts: Type + DeserializeOwned;
    /// What its parameters are about.
    type Target: Default + Send + 'static;
    const PARAMS: &'static [WireParam<Self::Target>];

    /// Checks what was read, as far as that needs no model.
    fn new(parts: Self::Parts, target: Self::Target, given: Given) -> Result<Self>;
}

/// The JSON body of a request.
#[derive(Clone, Debug)]
pub(crate) struct Body<R>(pub R);

impl<R: Request> Payload for Body<R> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        R::Parts::schema_ref()
    }

    fn register(registry: &mut Registry) {
        R::Parts::register(registry);
        add(registry, &R::Parts::name(), R::PARAMS);
    }
}

impl<'a, R: Request> ApiExtractor<'a> for Body<R> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let schema = Self::schema_ref();
        let content = vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a poem::Request,
        body: &mut poem::RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = read_body(request, body).await?;
        let ignored = request.data::<Ignored>().cloned().unwrap_or_default();
        Ok(Self(read(&bytes, &ignored)?))
    }
}

/// Reads a request. What may be left out is noted in `ignored`.
///
/// # Errors
/// What is wrong with it, with the path as the client wrote it.
pub(crate) fn read<R: Request>(bytes: &[u8], ignored: &Ignored) -> Result<R> {
    let Fields(mut fields) = fields(bytes)?;
    let mut target = R::Target::default();
    let tell = |what: String| ignored.note(what);
    let (path, is_strict) = (String::new(), ignored.is_strict());
    let place = Place { path, tell: &tell, decides, is_strict };
    let given = param::read(R::PARAMS, &mut fields, &mut target, &place)?;
    let is_near = |name: &str| R::PARAMS.iter().any(|param| param::is_nearly(name, param.name));
    let rest = lenient::Reading { num_bytes: bytes.len(), place: &place, is_near: &is_near };
    let parts = rest.read(Value::Object(fields))?;
    R::new(parts, target, given)
}

fn fields(bytes: &[u8]) -> Result<Fields> {
    let bytes = json_object(bytes)?;
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let fields =
        serde_path_to_error::deserialize(&mut input).map_err(|error| describe(&error, ""))?;
    input.end().map_err(|error| {
        Error::new(crate::error::Kind::Invalid, format!("invalid JSON: {error}"))
    })?;
    Ok(fields)
}

/// The fields of an object, none of which appears twice.
struct Fields(Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    if fields.contains_key(&name) {
                        let shown: String = name.chars().take(64).collect();
                        return Err(A::Error::custom(format!("duplicate field `{shown}`")));
                    }
                    fields.insert(name, map.next_value()?);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}
