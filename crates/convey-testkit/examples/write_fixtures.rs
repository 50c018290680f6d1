//! Writes the fixture files anew: `cargo run -p convey-testkit --example write_fixtures`. Review the diff.

use std::error::Error;
use std::fs;

fn main() -> Result<(), Box<dyn Error>> {
    for (name, file) in convey_testkit::cases::all() {
        let path = convey_testkit::fixture::directory().join(format!("{name}.json"));
        fs::write(&path, serde_json::to_string_pretty(&file)? + "\n")?;
        println!("{}: {} cases", path.display(), file.cases.len());
    }
    Ok(())
}
