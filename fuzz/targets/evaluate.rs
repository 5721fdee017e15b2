//! The question of `wayleave policy evaluate -`: a tailnet and a policy, built and asked. Nothing may panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|question: &[u8]| {
    if let Ok(answer) = wayleave_server::evaluate::evaluate(question) {
        drop(answer);
    }
});
