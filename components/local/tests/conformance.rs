//! The conformance suite against both types.

use std::collections::BTreeMap;
use std::process::Command;

use outrigger_component_api::{Catalog, Properties};
use outrigger_component_local::register;
use outrigger_testkit::PrivateDir;
use outrigger_testkit::suites::secrets::{Harness, Missing, Secrets};
use outrigger_testkit::suites::{Hold, properties};

fn singles<const N: usize>(pairs: [(&str, &str); N]) -> Secrets {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), entries([(name, value)])))
        .collect()
}

fn entries<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

mod env {
    use super::*;

    /// Reads what cargo puts into the environment of every test.
    struct Environment;

    impl Harness for Environment {
        const TYPE: &'static str = "secretstores.local.env";
        const MISSING: Missing = Missing::Empty;

        fn register(catalog: &mut Catalog) {
            register(catalog);
        }

        async fn start(_: Hold) -> Self {
            Self
        }

        fn properties(&self) -> Properties {
            properties([("prefix", "CARGO_PKG_")])
        }

        fn secrets(&self) -> Secrets {
            singles([
                ("NAME", env!("CARGO_PKG_NAME")),
                ("VERSION", env!("CARGO_PKG_VERSION")),
            ])
        }

        fn has_more(&self) -> bool {
            true
        }
    }

    outrigger_testkit::secrets_suite!(Environment: basic);
}

mod env_beside_withheld_variables {
    use super::*;

    const WITHHELD: [&str; 3] = ["APP_API_TOKEN", "DAPR_TESTKIT", "dapr_testkit_lower"];

    struct Environment;

    impl Harness for Environment {
        const TYPE: &'static str = "secretstores.local.env";
        const MISSING: Missing = Missing::Empty;

        fn register(catalog: &mut Catalog) {
            register(catalog);
        }

        async fn start(_: Hold) -> Self {
            Self
        }

        fn properties(&self) -> Properties {
            Properties::default()
        }

        fn secrets(&self) -> Secrets {
            singles([
                ("CARGO_PKG_NAME", env!("CARGO_PKG_NAME")),
                ("CARGO_PKG_VERSION", env!("CARGO_PKG_VERSION")),
            ])
        }

        fn withheld(&self) -> Vec<String> {
            WITHHELD.map(str::to_owned).to_vec()
        }

        fn has_more(&self) -> bool {
            true
        }
    }

    outrigger_testkit::secrets_suite!(Environment: basic);

    /// A process cannot safely change its own environment, so the cases run in a second one.
    #[test]
    fn the_cases_hold_in_a_process_that_has_such_variables() {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program)
            .args([
                "env_beside_withheld_variables::",
                "--skip",
                "the_cases_hold",
            ])
            .envs(WITHHELD.map(|name| (name, "a token")))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains("what_is_withheld_cannot_be_read ... ok"),
            "{text}"
        );
    }
}

mod file {
    use super::*;

    struct File {
        dir: PrivateDir,
    }

    impl Harness for File {
        const TYPE: &'static str = "secretstores.local.file";
        const REQUIRED: &'static [&'static str] = &["secretsFile"];

        fn register(catalog: &mut Catalog) {
            register(catalog);
        }

        async fn start(_: Hold) -> Self {
            let file = Self {
                dir: PrivateDir::new("local-file"),
            };
            file.come_back().await;
            file
        }

        fn properties(&self) -> Properties {
            let path = self.dir.path().join("secrets.json");
            properties([
                ("secretsFile", path.display().to_string()),
                ("nestedSeparator", "::".to_owned()),
            ])
        }

        fn secrets(&self) -> Secrets {
            singles([
                ("plain", "v"),
                ("n", "12"),
                ("nested::a::0", "x"),
                ("nested::b", ""),
                ("dotted.name ü", "y"),
            ])
        }

        fn withheld(&self) -> Vec<String> {
            ["nested", "nested:b", "nested::a"]
                .map(str::to_owned)
                .to_vec()
        }

        async fn leave(&self) {
            let path = self.dir.path().join("secrets.json");
            std::fs::remove_file(path).expect("the file is there");
        }

        async fn come_back(&self) {
            let text = r#"{"plain": "v", "n": 12, "nested": {"a": ["x"], "b": null}, "dotted.name ü": "y"}"#;
            self.dir.write("secrets.json", text);
        }
    }

    outrigger_testkit::secrets_suite!(File: basic, faults);
}

mod file_with_multiple_values {
    use super::*;

    struct File {
        dir: PrivateDir,
    }

    impl Harness for File {
        const TYPE: &'static str = "secretstores.local.file";

        fn register(catalog: &mut Catalog) {
            register(catalog);
        }

        async fn start(_: Hold) -> Self {
            let dir = PrivateDir::new("local-file");
            dir.write(
                "secrets.json",
                r#"{"one": "v", "db": {"user": "u", "hosts": ["a", "b"]}, "n": 12}"#,
            );
            Self { dir }
        }

        fn properties(&self) -> Properties {
            let path = self.dir.path().join("secrets.json");
            properties([
                ("secretsFile", path.display().to_string()),
                ("multiValued", "true".to_owned()),
            ])
        }

        fn secrets(&self) -> Secrets {
            let mut secrets = singles([("one", "v")]);
            let db = entries([("user", "u"), ("hosts:0", "a"), ("hosts:1", "b")]);
            secrets.insert("db".to_owned(), db);
            secrets
        }
    }

    outrigger_testkit::secrets_suite!(File: basic, multiple_values);
}
