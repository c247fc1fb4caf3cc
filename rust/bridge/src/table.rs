//! Data files: bytes behind gzip or Zstandard, and Parquet rows as JSON.

use std::fs::File;
use std::io::{self, Read};

use arrow_json::writer::{LineDelimited, WriterBuilder};
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::guard::{guarded, Failure};

const ROWS_PER_BATCH: usize = 256;

fn open(path: &str) -> Result<File, Failure> {
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound("no such file".into()),
        _ => Failure::Io(error.to_string()),
    })
}

pub struct ByteStream {
    source: Box<dyn Read>,
    compressed: bool,
}

impl ByteStream {
    pub fn open(path: &str, compression: &str) -> Result<ByteStream, Failure> {
        let file = open(path)?;
        let source: Box<dyn Read> = match compression {
            "" => Box::new(file),
            "gz" => Box::new(MultiGzDecoder::new(io::BufReader::new(file))),
            "zst" => Box::new(zstd::Decoder::new(file).map_err(Failure::data)?),
            other => return Err(Failure::Unsupported(format!("compression {other:?}"))),
        };
        Ok(ByteStream { source, compressed: !compression.is_empty() })
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        guarded(|| loop {
            match self.source.read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if self.compressed && error.raw_os_error().is_none() => {
                    return Err(Failure::Data(format!("damaged compressed data: {error}")));
                }
                Err(error) => return Err(Failure::Io(error.to_string())),
            }
        })
    }
}

pub struct ParquetReader {
    batches: ParquetRecordBatchReader,
}

impl ParquetReader {
    pub fn open(path: &str) -> Result<ParquetReader, Failure> {
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(open(path)?).map_err(Failure::data)?;
        let batches = builder.with_batch_size(ROWS_PER_BATCH).build().map_err(Failure::data)?;
        Ok(ParquetReader { batches })
    }

    pub fn next_rows(&mut self) -> Result<Vec<u8>, Failure> {
        guarded(|| {
            for batch in self.batches.by_ref() {
                let batch = batch.map_err(Failure::data)?;
                if batch.num_rows() == 0 {
                    continue;
                }
                let mut writer = WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, LineDelimited>(Vec::new());
                writer.write(&batch).map_err(Failure::data)?;
                writer.finish().map_err(Failure::data)?;
                return Ok(writer.into_inner());
            }
            Ok(Vec::new())
        })
    }
}
