//! What an operator may set: flags, environment and YAML, merged and checked.
