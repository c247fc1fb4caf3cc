//! Data files: bytes behind gzip or Zstandard, and columns of Parquet files as JSON.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::FromRawFd;

use flate2::read::MultiGzDecoder;
use parquet::basic::{ConvertedType, Repetition, Type as PhysicalType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::printer::print_schema;
use parquet::schema::types::{Type, TypePtr};

use crate::guard::{guarded, Failure};

const BYTES_PER_BATCH: usize = 1 << 20;

/// The file behind a descriptor that nobody else uses or closes.
fn take_over(descriptor: i32) -> File {
    // SAFETY: the callers in C++ hand over descriptors that they opened for this.
    unsafe { File::from_raw_fd(descriptor) }
}

pub struct ByteStream {
    source: Box<dyn Read>,
    compressed: bool,
}

impl ByteStream {
    /// How the bytes are compressed is told by the first of them, which no text begins with.
    pub fn open(descriptor: i32) -> Result<ByteStream, Failure> {
        let mut file = take_over(descriptor);
        let mut head = Vec::new();
        file.by_ref()
            .take(4)
            .read_to_end(&mut head)
            .map_err(|error| Failure::Io(error.to_string()))?;
        let bytes = Cursor::new(head.clone()).chain(file);
        let (source, compressed): (Box<dyn Read>, bool) = match head[..] {
            [0x1f, 0x8b, ..] => (Box::new(MultiGzDecoder::new(bytes)), true),
            // A frame, or one that is skipped, which parallel compressors put first.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                (Box::new(zstd::Decoder::new(bytes).map_err(Failure::data)?), true)
            }
            _ => (Box::new(bytes), false),
        };
        Ok(ByteStream { source, compressed })
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        guarded(|| {
            let mut filled = 0;
            while filled < buffer.len() {
                match self.source.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if self.compressed && error.raw_os_error().is_none() => {
                        return Err(Failure::Data(format!("damaged compressed data: {error}")));
                    }
                    Err(error) => return Err(Failure::Io(error.to_string())),
                }
            }
            Ok(filled)
        })
    }
}

/// "OPTIONAL INT64 text (TIMESTAMP(MICROS,true))", as schemas are written.
fn describe(field: &Type) -> String {
    let mut text = Vec::new();
    print_schema(&mut text, field);
    let text = String::from_utf8_lossy(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches(';').to_string()
}

fn is_text(field: &Type) -> bool {
    let info = field.get_basic_info();
    let types = [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON];
    field.is_primitive()
        && field.get_physical_type() == PhysicalType::BYTE_ARRAY
        && types.contains(&info.converted_type())
        && info.repetition() != Repetition::REPEATED
}

/// Whether values stand at the end of every branch: a group of nothing is a row of any number.
fn has_leaves(field: &Type) -> bool {
    field.is_primitive()
        || (!field.get_fields().is_empty() && field.get_fields().iter().all(|it| has_leaves(it)))
}

fn is_list(field: &Type) -> bool {
    let info = field.get_basic_info();
    field.is_group()
        && (info.converted_type() == ConvertedType::LIST
            || info.repetition() == Repetition::REPEATED)
        && has_leaves(field)
}

pub struct ParquetReader {
    file: Option<SerializedFileReader<File>>,
    schema: TypePtr,
    rows: Option<RowIter<'static>>,
}

impl ParquetReader {
    pub fn open(descriptor: i32) -> Result<ParquetReader, Failure> {
        let file = SerializedFileReader::new(take_over(descriptor)).map_err(Failure::data)?;
        let schema = file.metadata().file_metadata().schema_descr().root_schema_ptr();
        Ok(ParquetReader { file: Some(file), schema, rows: None })
    }

    pub fn column_names(&self) -> Result<Vec<String>, Failure> {
        Ok(self.schema.get_fields().iter().map(|field| field.name().to_string()).collect())
    }

    pub fn read_columns(&mut self, columns: &[String], lists: bool) -> Result<(), Failure> {
        guarded(|| {
            let mut fields = Vec::new();
            for field in self.schema.get_fields() {
                let name = field.name();
                if !columns.iter().any(|column| column == name) {
                    continue;
                }
                let (fits, wanted) = match lists {
                    true => (is_list(field), "a list of messages"),
                    false => (is_text(field), "text"),
                };
                if !fits {
                    let found = describe(field);
                    let message = format!("column {name:?}: expected {wanted}, found {found}");
                    return Err(Failure::Data(message));
                }
                fields.push(field.clone());
            }
            let projection = Type::group_type_builder(self.schema.name())
                .with_fields(fields)
                .build()
                .map_err(Failure::data)?;
            let Some(file) = self.file.take() else {
                return Err(Failure::Argument("columns were chosen before".into()));
            };
            let rows = RowIter::from_file_into(Box::new(file)).project(Some(projection));
            self.rows = Some(rows.map_err(Failure::data)?);
            Ok(())
        })
    }

    pub fn next_rows(&mut self) -> Result<Vec<u8>, Failure> {
        guarded(|| {
            let mut lines = Vec::new();
            for row in self.rows.iter_mut().flatten() {
                let row = row.map_err(Failure::data)?;
                serde_json::to_writer(&mut lines, &row.to_json_value()).map_err(Failure::data)?;
                lines.push(b'\n');
                if lines.len() >= BYTES_PER_BATCH {
                    break;
                }
            }
            Ok(lines)
        })
    }
}
