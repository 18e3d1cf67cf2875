//! One line of CSV (RFC 4180): how flags with several `KEY=VALUE` fields are written.

/// The fields of `line`. A field with commas or quotes is quoted; `""` in it is a quote.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) =
                rest.split_once(',').map_or((rest, None), |(field, after)| (field, Some(after)));
            if field.contains('"') {
                return Err("a quote stands inside a field that does not begin with one");
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        rest = quoted;
        loop {
            let Some((text, after)) = rest.split_once('"') else {
                return Err("a quote is not closed");
            };
            field.push_str(text);
            rest = after;
            match rest.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    rest = after;
                }
                None => break,
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(fields),
            None => return Err("something other than a comma follows a closing quote"),
        }
    }
}
