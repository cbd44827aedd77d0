//! CEL expressions inside a file.

use crate::diagnostic::Diagnostic;
use crate::load::Compile;
use crate::read::Field;
use crate::yaml::Style;

/// Reads an expression and has it compiled. Absent when it is empty; an error when it does not compile.
pub(crate) fn read(field: &Field<'_>, compile: Compile<'_>) -> Option<String> {
    let text = field.text()?;
    let expression = text.trim();
    if expression.is_empty() {
        return None;
    }
    if let Err((message, at)) = compile(expression) {
        field.reader().tell(refusal(field, &text, &message, at));
    }
    Some(expression.to_owned())
}

/// Points into the expression where it stands on one line, beside it otherwise.
pub(crate) fn refusal(
    field: &Field<'_>,
    text: &str,
    message: &str,
    at: Option<(usize, usize)>,
) -> Diagnostic {
    let mut place = field.place();
    let style = field.node.as_scalar().map(|scalar| scalar.style);
    let mut message = format!("the expression does not compile: {message}");
    match (at, style) {
        (Some((1, column)), Some(Style::Plain | Style::Quoted))
            if !text.contains('\n') && field.reader().is_exact(field.node.at) =>
        {
            let blanks = text.chars().take_while(|c| c.is_whitespace()).count();
            let quote = usize::from(style == Some(Style::Quoted));
            let offset = column
                .saturating_sub(1)
                .saturating_add(blanks)
                .saturating_add(quote);
            place.column = place
                .column
                .saturating_add(u32::try_from(offset).unwrap_or(0));
        }
        (Some((line, column)), _) => message.push_str(&format!(
            " (line {line}, column {column} of the expression)"
        )),
        (None, _) => {}
    }
    Diagnostic::error("CFG-EXPRESSION", place, message)
        .found(text.trim())
        .expected("a CEL expression")
}
