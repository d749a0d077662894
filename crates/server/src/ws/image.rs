//! Pictures beside a message: the one sort of attachment we take.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use watertight_core::transcript::Block;

use super::ATTACHMENTS;
use super::call::Failure;

const TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// The pictures of a message, or why one of them cannot be taken.
pub(crate) fn blocks(attachments: &[Value]) -> Result<Vec<Block>, Failure> {
    let mut total = 0;
    let mut blocks = Vec::with_capacity(attachments.len());
    for (at, attachment) in attachments.iter().enumerate() {
        let (block, bytes) = block(attachment).map_err(|problem| {
            let name = attachment["fileName"].as_str().map(|name| name.chars().filter(|c| !c.is_control()).take(80));
            let name = name.map_or_else(|| format!("attachment {}", at + 1), Iterator::collect);
            Failure::invalid(format!("{name}: {problem}"))
        })?;
        total += bytes;
        blocks.push(block);
    }
    if total > ATTACHMENTS.max_bytes {
        return Err(Failure::invalid(format!("attachments exceed {} bytes together", ATTACHMENTS.max_bytes)));
    }
    Ok(blocks)
}

fn block(attachment: &Value) -> Result<(Block, usize), String> {
    let content = attachment["content"].as_str().ok_or("content must be base64 text")?;
    // A data URL says its type itself.
    let (named, data) = match content.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((named, data)) => (Some(named), data),
        None => (None, content),
    };
    let mime_type = attachment["mimeType"].as_str().or(named).unwrap_or_default().to_ascii_lowercase();
    if !TYPES.contains(&mime_type.as_str()) {
        return Err(format!("only pictures are taken ({})", TYPES.join(", ")));
    }
    let bytes = STANDARD.decode(data.trim()).map_err(|_| "content is not valid base64")?;
    if bytes.is_empty() {
        return Err("content is empty".into());
    }
    if bytes.len() > ATTACHMENTS.max_image_bytes {
        return Err(format!("larger than {} bytes", ATTACHMENTS.max_image_bytes));
    }
    Ok((Block::Image { mime_type, data: STANDARD.encode(&bytes) }, bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(attachment: Value) -> String {
        blocks(&[attachment]).unwrap_err().error.message
    }

    #[test]
    fn a_picture_is_taken_as_base64_or_data_url() {
        let expected = [Block::Image { mime_type: "image/png".into(), data: "aGk=".into() }];
        let plain = json!({"type": "image", "mimeType": "image/png", "content": "aGk="});
        assert_eq!(blocks(&[plain]).unwrap(), expected);
        let url = json!({"type": "image", "content": "data:image/png;base64,aGk="});
        assert_eq!(blocks(&[url]).unwrap(), expected);
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        assert_eq!(
            said(json!({"mimeType": "application/pdf", "fileName": "a.pdf", "content": "aGk="})),
            "a.pdf: only pictures are taken (image/png, image/jpeg, image/gif, image/webp)"
        );
        assert_eq!(
            said(json!({"mimeType": "image/png", "content": "%%"})),
            "attachment 1: content is not valid base64"
        );
        assert_eq!(said(json!({"mimeType": "image/png", "content": ""})), "attachment 1: content is empty");
        assert_eq!(said(json!({"mimeType": "image/png"})), "attachment 1: content must be base64 text");
        let big = STANDARD.encode(vec![0; ATTACHMENTS.max_image_bytes + 1]);
        assert!(said(json!({"mimeType": "image/png", "content": big})).contains("larger than"));
    }

    #[test]
    fn many_pictures_are_bounded_together() {
        let picture =
            json!({"mimeType": "image/png", "content": STANDARD.encode(vec![0; ATTACHMENTS.max_image_bytes])});
        assert!(blocks(&vec![picture.clone(); 3]).is_ok());
        let error = blocks(&vec![picture; 4]).unwrap_err().error.message;
        assert!(error.contains("together"), "{error}");
    }
}
