//! Prints a table of a capture directory as JSON, one row a line, for jq and scripts: `rows CAPTURE TABLE`.
//!
//! Knows the columns from the files alone, so it shows what is on disk and not what this version expects there. A
//! table without segments prints nothing.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, UInt32Type, UInt64Type};
use mtrace_formats::tables;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [capture, table] = args.as_slice() else { return Err("usage: rows CAPTURE TABLE".into()) };
    let table = table.to_string_lossy();
    if !tables::ALL.iter().any(|t| t.name == table) {
        let known: Vec<_> = tables::ALL.iter().map(|t| t.name).collect();
        return Err(format!("expected a table ({}), found `{table}`", known.join(", ")).into());
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    for segment in segments(&Path::new(capture).join(&*table))? {
        print_segment(&segment, &mut out).map_err(|e| format!("`{}`: {e}", segment.display()))?;
    }
    Ok(out.flush()?)
}

/// The closed segments in order.
fn segments(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("`{}`: {e}", folder.display()).into()),
    };
    let mut found = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    found.retain(|p| p.extension().is_some_and(|e| e == "parquet"));
    found.sort();
    Ok(found)
}

fn print_segment(path: &Path, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
        let batch = batch?;
        for i in 0..batch.num_rows() {
            serde_json::to_writer(&mut *out, &row(&batch, i)?)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

fn row(batch: &RecordBatch, i: usize) -> Result<Map<String, Value>, String> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    columns.map(|(field, column)| Ok((field.name().clone(), cell(column, i)?))).collect()
}

fn cell(column: &dyn Array, i: usize) -> Result<Value, String> {
    if column.is_null(i) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(i).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(i).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(i).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(i).into(),
        DataType::Boolean => column.as_boolean().value(i).into(),
        DataType::Utf8 => column.as_string::<i32>().value(i).into(),
        other => return Err(format!("expected a column of a known type, found {other}")),
    })
}
