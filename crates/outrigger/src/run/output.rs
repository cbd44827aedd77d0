//! The app's lines, each with a word ahead of it.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Longer lines are printed in pieces.
const LONGEST: usize = 64 * 1024;

/// Readers of what an app prints.
#[derive(Debug)]
pub(super) struct Output {
    ended: Vec<Receiver<()>>,
}

impl Output {
    /// Starts to read; what the app has to write to.
    ///
    /// # Errors
    /// When there are no pipes or threads to be had.
    pub(super) fn start(prefix: &str) -> std::io::Result<(Self, PipeWriter, PipeWriter)> {
        let (out_reader, out_writer) = std::io::pipe()?;
        let (err_reader, err_writer) = std::io::pipe()?;
        let ended = vec![
            copy(out_reader, prefix, std::io::stdout)?,
            copy(err_reader, prefix, std::io::stderr)?,
        ];
        Ok((Self { ended }, out_writer, err_writer))
    }

    /// Waits until everything is printed. Somebody else may hold the pipes open, hence the limit.
    pub(super) fn finish(&self, limit: Duration) {
        for ended in &self.ended {
            ended.recv_timeout(limit).ok();
        }
    }
}

fn copy<W: Write>(
    reader: PipeReader,
    prefix: &str,
    writer: impl Fn() -> W + Send + 'static,
) -> std::io::Result<Receiver<()>> {
    let (done, ended): (SyncSender<()>, _) = sync_channel(1);
    let prefix = prefix.as_bytes().to_vec();
    std::thread::Builder::new()
        .name("app-output".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            let mut reader = BufReader::new(reader);
            while let Some(line) = next_line(&mut reader, &prefix) {
                let mut writer = writer();
                writer.write_all(&line).ok();
                writer.flush().ok();
            }
            done.try_send(()).ok();
        })?;
    Ok(ended)
}

/// The next line with its prefix and its end; `None` when there are no more.
fn next_line(reader: &mut BufReader<PipeReader>, prefix: &[u8]) -> Option<Vec<u8>> {
    let mut line = prefix.to_vec();
    loop {
        let chunk = reader.fill_buf().ok()?;
        if chunk.is_empty() {
            if line.len() == prefix.len() {
                return None;
            }
            line.push(b'\n');
            return Some(line);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |end| end + 1);
        line.extend_from_slice(chunk.get(..taken).unwrap_or_default());
        reader.consume(taken);
        if end.is_some() {
            return Some(line);
        }
        if line.len() >= LONGEST {
            line.push(b'\n');
            return Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_the_prefix_and_an_end() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"one\n\ntwo").unwrap();
        drop(writer);
        let mut reader = BufReader::new(reader);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut reader, b"app | ") {
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["app | one\n", "app | \n", "app | two\n"]);
    }
}
