//! How a session ended, as its client is told on the error stream.

use serde_json::json;

/// How a command, or what was attached to, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With 0; or the client has left, or nobody knows the code of what it was attached to.
    Success,
    /// With another exit code.
    Exit(i32),
    /// It could not be run, or was lost.
    Failure(String),
}

impl Outcome {
    /// For version 4 and later: a `Status` of the Kubernetes API, whose clients take the exit code from it.
    pub(super) fn to_json(&self) -> String {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.to_text(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure(text) => json!({
                "metadata": {},
                "status": "Failure",
                "message": text,
                "reason": "InternalError",
                "details": {"causes": [{"message": text}]},
                "code": 500,
            }),
        }
        .to_string()
    }

    /// For versions before 4: a text, where it is not a success.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Exit(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failure(text) => text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_where_the_clients_look_for_it() {
        let status: serde_json::Value = serde_json::from_str(&Outcome::Exit(126).to_json()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "126"}));
        let status: serde_json::Value =
            serde_json::from_str(&Outcome::Failure("why".into()).to_json()).unwrap();
        assert_eq!((&status["status"], &status["message"]), (&json!("Failure"), &json!("why")));
        assert_eq!(Outcome::Success.to_text(), "");
    }
}
