//! What parameters look like in the document.

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde_json::Value;

use crate::param::{Kind, Param, Scalar};

/// What the JSON of a composite value looks like.
#[derive(Clone, Copy)]
pub(crate) struct Wire {
    schema: fn() -> MetaSchemaRef,
    register: fn(&mut Registry),
}

/// A parameter of a request's body.
pub(crate) type WireParam<T> = Param<T, Wire>;

/// What a type looks like.
pub(crate) const fn wire<T: Type>() -> Wire {
    Wire { schema: T::schema_ref, register: T::register }
}

/// Adds parameters to the fields of a schema that is registered.
pub(super) fn add<T>(registry: &mut Registry, name: &str, params: &'static [Param<T, Wire>]) {
    let is_there = registry.schemas.get(name).is_some_and(|schema| {
        params.first().is_none_or(|first| schema.properties.iter().any(|(n, _)| *n == first.name))
    });
    if is_there {
        return;
    }
    let properties: Vec<_> =
        params.iter().map(|param| (param.name, property(registry, param))).collect();
    if let Some(schema) = registry.schemas.get_mut(name) {
        schema.properties.extend(properties);
        schema.required.extend(params.iter().filter(|param| param.is_required).map(|p| p.name));
    }
}

fn property<T>(registry: &mut Registry, param: &Param<T, Wire>) -> MetaSchemaRef {
    let schema = match param.kind {
        Kind::Json { wire, .. } => {
            (wire.register)(registry);
            match (wire.schema)() {
                MetaSchemaRef::Inline(schema) => *schema,
                // Words beside a reference need a wrapping.
                reference @ MetaSchemaRef::Reference(_) => {
                    MetaSchema { all_of: vec![reference], ..MetaSchema::ANY }
                }
            }
        }
        Kind::Table { title, params } => {
            let table = MetaSchema { title: Some(title.to_owned()), ..MetaSchema::new("object") };
            registry.schemas.entry(title.to_owned()).or_insert(table);
            add(registry, title, params);
            let reference = MetaSchemaRef::Reference(title.to_owned());
            MetaSchema { all_of: vec![reference], ..MetaSchema::ANY }
        }
        kind => scalar(kind),
    };
    let doc = (!param.doc.is_empty()).then_some(param.doc);
    let default = param.default.map(|default| match default {
        Scalar::Number(value) => value.into(),
        Scalar::Integer(value) => Value::from(value),
    });
    let description = doc.or(schema.description);
    MetaSchemaRef::Inline(Box::new(MetaSchema {
        description,
        default,
        nullable: !param.is_required,
        ..schema
    }))
}

fn scalar<T>(kind: Kind<T, Wire>) -> MetaSchema {
    let inline = |schema| Some(Box::new(MetaSchemaRef::Inline(Box::new(schema))));
    let limit = |max: usize| (max < usize::MAX).then_some(max);
    match kind {
        Kind::Number { min, max, .. } => MetaSchema {
            minimum: Some(min),
            maximum: Some(max),
            ..MetaSchema::new_with_format("number", "double")
        },
        Kind::Integer { min, max, .. } => MetaSchema {
            minimum: (min > i64::MIN).then_some(min as f64),
            maximum: (max < i64::MAX).then_some(max as f64),
            ..MetaSchema::new_with_format("integer", "int64")
        },
        Kind::Switch { .. } => MetaSchema::new("boolean"),
        Kind::Text { max_chars, .. } => {
            MetaSchema { max_length: limit(max_chars), ..MetaSchema::new("string") }
        }
        Kind::Texts { max, chars: (min_chars, max_chars), or_one, .. } => {
            let text = MetaSchema {
                min_length: (min_chars > 0).then_some(min_chars),
                max_length: limit(max_chars),
                ..MetaSchema::new("string")
            };
            let list = MetaSchema {
                items: inline(text.clone()),
                max_items: limit(max),
                ..MetaSchema::new("array")
            };
            if !or_one {
                return list;
            }
            let one_of = [text, list].map(|schema| MetaSchemaRef::Inline(Box::new(schema)));
            MetaSchema { one_of: one_of.to_vec(), ..MetaSchema::ANY }
        }
        Kind::Ids { max, .. } => MetaSchema {
            items: inline(MetaSchema {
                minimum: Some(0.0),
                ..MetaSchema::new_with_format("integer", "uint32")
            }),
            max_items: limit(max),
            ..MetaSchema::new("array")
        },
        Kind::Choice { words, .. } => MetaSchema {
            enum_items: words.iter().map(|word| Value::from(*word)).collect(),
            ..MetaSchema::new("string")
        },
        Kind::Json { .. } | Kind::Table { .. } => MetaSchema::ANY,
    }
}
