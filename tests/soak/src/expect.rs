//! What each request must be answered with: asked of an engine without faults, before anything else runs.

use std::collections::HashMap;

use kvferry_emulator::{Config, Emulator};

use crate::Result;
use crate::api::{Api, Wish};
use crate::client::{Call, Connection, Protocol};
use crate::plan::{LENGTHS, PROMPTS};

/// The right answers.
#[derive(Debug, Default)]
pub(crate) struct Expected(HashMap<Wish, String>);

impl Expected {
    /// Asks for everything once.
    ///
    /// # Errors
    /// When the engine cannot be started or does not answer.
    pub(crate) async fn compute() -> Result<Self> {
        let engine = Emulator::start(Config::default()).await?;
        let mut connection = Connection::open(engine.addr(), Protocol::Http1, None).await?;
        let mut answers = HashMap::new();
        for api in Api::ALL {
            for prompt in 0..PROMPTS {
                for tokens in LENGTHS {
                    let wish = Wish { api, prompt, tokens };
                    let call = Call {
                        method: http::Method::POST,
                        path: api.path(),
                        headers: Vec::new(),
                        body: wish.body(false, 1).into(),
                        half: false,
                    };
                    let answer = connection.send(call).await?.whole().await?;
                    let said = api.read_whole(&answer)?;
                    let [content] = &said.choices[..] else {
                        return Err(format!("one choice was asked for: {said:?}").into());
                    };
                    answers.insert(wish, content.clone());
                }
            }
        }
        drop(connection);
        tokio::task::spawn_blocking(|| engine.stop()).await?;
        Ok(Self(answers))
    }

    /// What `wish` must be answered with.
    pub(crate) fn of(&self, wish: &Wish) -> &str {
        self.0.get(wish).expect("every prompt and length that the plan knows was asked for")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn different_wishes_have_different_answers_and_longer_ones_go_on() {
        let expected = Expected::compute().await.unwrap();
        let of = |api, prompt, tokens| expected.of(&Wish { api, prompt, tokens });
        for api in Api::ALL {
            let all: HashSet<&str> = (0..PROMPTS).map(|prompt| of(api, prompt, 24)).collect();
            assert_eq!(all.len() as u64, PROMPTS, "{api:?}");
            assert!(of(api, 3, 24).starts_with(of(api, 3, 8)) && !of(api, 3, 8).is_empty(), "{api:?}");
        }
    }
}
