//! Shapes that a derive reads badly: a text or a list, a part or its text, prompts of every kind.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::json_error::float_in_words;
use crate::{Content, ContentPart, InputContent, ItemText, Prompt, ResponsesInput, StopSequences};

/// Most prompts in one request, far above any operator's limit: bounds memory while reading.
const MAX_PROMPTS: usize = 4096;

/// Absent, null and the default are one thing.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

// By hand, because a part may also be its bare text.
impl<'de> Deserialize<'de> for ContentPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = ContentPart;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a content part or a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<ContentPart, E> {
        Ok(ContentPart { text: Some(text.to_owned()), ..ContentPart::of_kind("text") })
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<ContentPart, A::Error> {
        #[derive(Deserialize)]
        struct Fields {
            #[serde(rename = "type")]
            kind: String,
            text: Option<String>,
            refusal: Option<String>,
            thinking: Option<String>,
        }

        let Fields { kind, text, refusal, thinking } = Fields::deserialize(MapAccessDeserializer::new(fields))?;
        Ok(ContentPart { kind, text, refusal, thinking })
    }
}

// By hand, because an untagged enum would forget where inside the list an error was.
macro_rules! text_or_list {
    ($name:ident: $text:ident or $list:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let visitor = TextOrList { expected: $expected, text: Self::$text, list: Self::$list };
                deserializer.deserialize_any(visitor)
            }
        }
    };
}

text_or_list!(StopSequences: One or Many, "a string or a list of strings");
text_or_list!(Content: Text or Parts, "a string or a list of content parts");
text_or_list!(InputContent: Text or Blocks, "a string or a list of content blocks");
text_or_list!(ItemText: Text or Parts, "a string or a list of parts");
text_or_list!(ResponsesInput: Text or Items, "a string or a list of items");

struct TextOrList<O, T> {
    expected: &'static str,
    text: fn(String) -> O,
    list: fn(Vec<T>) -> O,
}

impl<'de, O, T: Deserialize<'de>> Visitor<'de> for TextOrList<O, T> {
    type Value = O;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E>(self, text: &str) -> Result<O, E> {
        Ok((self.text)(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<O, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(items)).map(self.list)
    }
}

// By hand, because an untagged enum stores everything before it knows what it is.
impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
    }

    fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
        let mut prompt = match items.next_element::<PromptItem>()? {
            None => return Ok(Prompt::Tokens(Vec::new())),
            Some(PromptItem::Text(text)) => Prompt::Texts(vec![text]),
            Some(PromptItem::Token(id)) => Prompt::Tokens(vec![id]),
            Some(PromptItem::Tokens(ids)) => Prompt::TokenLists(vec![ids]),
        };
        while let Some(item) = items.next_element::<PromptItem>()? {
            let num_prompts = match (&mut prompt, item) {
                (Prompt::Texts(texts), PromptItem::Text(text)) => {
                    texts.push(text);
                    texts.len()
                }
                (Prompt::Tokens(ids), PromptItem::Token(id)) => {
                    ids.push(id);
                    1
                }
                (Prompt::TokenLists(lists), PromptItem::Tokens(ids)) => {
                    lists.push(ids);
                    lists.len()
                }
                _ => return Err(A::Error::custom("a prompt's items must all be of one kind")),
            };
            if num_prompts > MAX_PROMPTS {
                return Err(A::Error::custom(format!("more than {MAX_PROMPTS} prompts")));
            }
        }
        Ok(prompt)
    }
}

#[derive(Deserialize, Serialize)]
#[serde(transparent)]
struct TokenId(u32);

enum PromptItem {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = PromptItem;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<PromptItem, E> {
                let id = u32::try_from(id).map_err(|_| E::custom(format!("{id} is not a token id")))?;
                Ok(PromptItem::Token(id))
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<PromptItem, E> {
                Err(E::custom(format!("{id} is not a token id")))
            }

            fn visit_f64<E: Error>(self, id: f64) -> Result<PromptItem, E> {
                if id.fract() == 0.0 && (0.0..=u32::MAX.into()).contains(&id) {
                    return Ok(PromptItem::Token(id as u32));
                }
                Err(E::custom(format!("{} is not a token id", float_in_words(id))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PromptItem, A::Error> {
                let mut ids = Vec::new();
                while let Some(TokenId(id)) = items.next_element()? {
                    ids.push(id);
                }
                Ok(PromptItem::Tokens(ids))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}
