//! Lists of items, a page at a time.

use super::{
    items::ResponsesItem,
    object::{ItemListKind, ResponsesItemList},
};
use crate::{
    error::{Error, Kind, Result},
    server::schema::wire_enum,
};

/// Items of one list at most, and if nothing is said.
pub(super) const MAX_LISTED: usize = 100;
pub(super) const LISTED: usize = 20;

wire_enum! {
    /// Which items come first.
    pub(crate) enum ItemOrder {
        /// The oldest.
        Ascending = "asc",
        /// The newest.
        Descending = "desc",
    }
}

impl poem_openapi::types::ParseFromParameter for ItemOrder {
    fn parse_from_parameter(value: &str) -> poem_openapi::types::ParseResult<Self> {
        match value {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            _ => Err(poem_openapi::types::ParseError::custom("asc or desc is expected")),
        }
    }
}

/// The items behind one of them, as many as are wanted.
///
/// # Errors
/// There is no such item.
pub(super) fn page(
    mut items: Vec<ResponsesItem>,
    after: Option<&str>,
    limit: usize,
) -> Result<ResponsesItemList> {
    if let Some(after) = after {
        let at = items.iter().position(|item| item.id() == after).ok_or_else(|| {
            let text = "after: there is no such item";
            Error::new(Kind::NotFound, text).with_param("after")
        })?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    Ok(ResponsesItemList {
        object: ItemListKind::Only,
        first_id: items.first().map(|item| item.id().to_owned()),
        last_id: items.last().map(|item| item.id().to_owned()),
        data: items,
        has_more,
    })
}
