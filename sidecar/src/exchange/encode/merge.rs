//! Puts the `ec_transfer_params` of several encoders together: the union of their members, each value the bytes that
//! came. Engines put large integers there.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON object as its members, in order, unread.
#[derive(Debug, Default)]
pub(super) struct Members(Vec<(String, Bytes)>);

impl Members {
    /// Takes over the members of `object`; one of the same name is replaced. What is no object has none.
    pub(super) fn take(&mut self, object: &Bytes) {
        let Ok(Borrowed(members)) = serde_json::from_slice(object) else { return };
        for (name, value) in members {
            let value = Bytes::copy_from_slice(value.get().as_bytes());
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = value,
                None => self.0.push((name, value)),
            }
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object.
    pub(super) fn to_json(&self) -> Bytes {
        let mut json = vec![b'{'];
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            json.extend_from_slice(serde_json::Value::from(name.as_str()).to_string().as_bytes());
            json.push(b':');
            json.extend_from_slice(value);
        }
        json.push(b'}');
        json.into()
    }
}

/// The members where they lie.
struct Borrowed<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Borrowed<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Borrowed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Borrowed(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(objects: &[&str]) -> Option<String> {
        let mut members = Members::default();
        for object in objects {
            members.take(&Bytes::copy_from_slice(object.as_bytes()));
        }
        (!members.is_empty()).then(|| String::from_utf8(members.to_json().to_vec()).unwrap())
    }

    #[test]
    fn the_union_keeps_every_value_as_it_came() {
        for (objects, expected) in [
            (&[][..], None),
            (&["{}"], None),
            (&["null", "5", "[]", r#""x""#], None),
            (&[r#"{"a":{"size":12345678901234567890}}"#], Some(r#"{"a":{"size":12345678901234567890}}"#)),
            (&[r#"{"b":1.50, "a": [ 1 ]}"#, r#"{"c":null}"#], Some(r#"{"b":1.50,"a":[ 1 ],"c":null}"#)),
            // The later answer is the fresher one.
            (&[r#"{"a":1,"b":2}"#, r#"{"a":3}"#], Some(r#"{"a":3,"b":2}"#)),
            (&["null", r#"{"\"q\"\u00e9":1}"#, "{}"], Some("{\"\\\"q\\\"é\":1}")),
        ] {
            assert_eq!(merged(objects).as_deref(), expected, "{objects:?}");
        }
    }
}
