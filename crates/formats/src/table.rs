//! What a table is: a typed row, its columns, and how rows become Arrow batches and back.
//!
//! The [`table!`](crate::table!) macro writes the row struct and its [`Row`] implementation from one
//! declaration, so that a column's name, type, unit and doc are stated once.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, PrimitiveArray, RecordBatch,
    StringArray, UInt32Array, UInt64Array,
};
use arrow::array::{BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, UInt32Type, UInt64Type};

/// How a column is laid out on disk; chosen per column because the right choice differs by orders of magnitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Neighbouring rows differ little (times, addresses): Parquet `DELTA_BINARY_PACKED`.
    Delta,
    /// Few distinct values (pids, kinds, stacks): Parquet dictionary, run-length encoded.
    Dictionary,
    /// Neither: Parquet `PLAIN`.
    Plain,
}

/// One column: what SCHEMA.md says about it and how it is stored.
#[derive(Debug, Clone)]
pub struct Column {
    /// Name in the Parquet file.
    pub name: &'static str,
    /// First paragraph of the field's doc.
    pub doc: &'static str,
    /// Arrow type.
    pub data_type: DataType,
    /// True if null ("not measured" or "does not apply") can occur.
    pub nullable: bool,
    /// On-disk layout.
    pub encoding: Encoding,
}

/// A typed row of a table.
pub trait Row: Sized + Send + 'static {
    /// Name of the table and of its folder in a capture.
    const NAME: &'static str;
    /// Doc of the table.
    const DOC: &'static str;
    /// Collects rows into Arrow arrays.
    type Builder: RowBuilder<Self>;

    /// The columns in file order.
    fn columns() -> Vec<Column>;

    /// Events that the row stands for: one, or what a column says where rows add events up.
    fn events(&self) -> u64 {
        1
    }

    /// Appends the rows of `batch` to `out`.
    ///
    /// A nullable column that is absent reads as null (older captures); a column that this version does not know
    /// is ignored (newer ones).
    ///
    /// # Errors
    /// What was expected and what was found, when a required column is missing or has another type.
    fn read(batch: &RecordBatch, out: &mut Vec<Self>) -> Result<(), String>;

    /// The Arrow schema.
    fn schema() -> Arc<Schema> {
        let fields: Vec<Field> =
            Self::columns().into_iter().map(|c| Field::new(c.name, c.data_type, c.nullable)).collect();
        Arc::new(Schema::new(fields))
    }
}

/// Collects rows of type `R`, column by column.
pub trait RowBuilder<R>: Default + Send {
    /// Appends one row.
    fn push(&mut self, row: R);
    /// Rows collected so far.
    fn len(&self) -> usize;
    /// True if no row was collected.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Takes the rows collected so far as arrays in column order.
    fn finish(&mut self) -> Vec<ArrayRef>;
}

/// A value that can stand in a column.
pub trait Cell: Sized {
    /// Arrow builder of the column.
    type Builder: ArrayBuilder + Default;
    /// Typed view of a column of a batch.
    type Reader<'a>;
    /// True for `Option<_>`.
    const NULLABLE: bool;
    /// Arrow type of the column.
    fn data_type() -> DataType;
    /// Appends one value.
    fn append(self, builder: &mut Self::Builder);
    /// Views `array` as this type; `None` if it has another type.
    fn reader(array: &dyn Array) -> Option<Self::Reader<'_>>;
    /// The value at row `i`; a null in a column that must not have one is an error.
    fn get(reader: &Self::Reader<'_>, i: usize) -> Option<Self>;
    /// The value of a row whose column is absent; `None` if there is no such value.
    fn absent() -> Option<Self> {
        None
    }
}

macro_rules! primitive_cell {
    ($t:ty, $arrow:ty, $array:ty, $dt:expr) => {
        impl Cell for $t {
            type Builder = PrimitiveBuilder<$arrow>;
            type Reader<'a> = &'a $array;
            const NULLABLE: bool = false;
            fn data_type() -> DataType {
                $dt
            }
            fn append(self, b: &mut Self::Builder) {
                b.append_value(self);
            }
            fn reader(array: &dyn Array) -> Option<Self::Reader<'_>> {
                array.as_any().downcast_ref::<PrimitiveArray<$arrow>>()
            }
            fn get(r: &Self::Reader<'_>, i: usize) -> Option<Self> {
                r.is_valid(i).then(|| r.value(i))
            }
        }
        impl OptionalCell for $t {
            fn append_option(value: Option<Self>, b: &mut Self::Builder) {
                b.append_option(value);
            }
        }
    };
}

/// A [`Cell`] whose builder can also append null.
pub trait OptionalCell: Cell {
    /// Appends a value or null.
    fn append_option(value: Option<Self>, builder: &mut Self::Builder);
}

primitive_cell!(i64, Int64Type, Int64Array, DataType::Int64);
primitive_cell!(u64, UInt64Type, UInt64Array, DataType::UInt64);
primitive_cell!(i32, Int32Type, Int32Array, DataType::Int32);
primitive_cell!(u32, UInt32Type, UInt32Array, DataType::UInt32);

impl Cell for bool {
    type Builder = BooleanBuilder;
    type Reader<'a> = &'a BooleanArray;
    const NULLABLE: bool = false;
    fn data_type() -> DataType {
        DataType::Boolean
    }
    fn append(self, b: &mut Self::Builder) {
        b.append_value(self);
    }
    fn reader(array: &dyn Array) -> Option<Self::Reader<'_>> {
        array.as_boolean_opt()
    }
    fn get(r: &Self::Reader<'_>, i: usize) -> Option<Self> {
        r.is_valid(i).then(|| r.value(i))
    }
}

impl OptionalCell for bool {
    fn append_option(value: Option<Self>, b: &mut Self::Builder) {
        b.append_option(value);
    }
}

impl Cell for String {
    type Builder = StringBuilder;
    type Reader<'a> = &'a StringArray;
    const NULLABLE: bool = false;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn append(self, b: &mut Self::Builder) {
        b.append_value(self);
    }
    fn reader(array: &dyn Array) -> Option<Self::Reader<'_>> {
        array.as_string_opt::<i32>()
    }
    fn get(r: &Self::Reader<'_>, i: usize) -> Option<Self> {
        r.is_valid(i).then(|| r.value(i).to_owned())
    }
}

impl OptionalCell for String {
    fn append_option(value: Option<Self>, b: &mut Self::Builder) {
        b.append_option(value);
    }
}

impl<T: OptionalCell> Cell for Option<T> {
    type Builder = T::Builder;
    type Reader<'a> = (T::Reader<'a>, bool);
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        T::data_type()
    }
    fn append(self, b: &mut Self::Builder) {
        T::append_option(self, b);
    }
    fn reader(array: &dyn Array) -> Option<Self::Reader<'_>> {
        Some((T::reader(array)?, array.is_empty()))
    }
    fn get(r: &Self::Reader<'_>, i: usize) -> Option<Self> {
        Some(T::get(&r.0, i))
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// Reads one column of `batch` into a closure-friendly accessor; used by [`table!`](crate::table!).
///
/// # Errors
/// What was expected and what was found.
#[doc(hidden)]
pub fn column<'a, T: Cell + 'a>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<impl Fn(usize) -> Result<T, String> + 'a, String> {
    let reader = match batch.column_by_name(name) {
        None if T::absent().is_some() => None,
        None => return Err(format!("column `{name}` is missing")),
        Some(array) => Some(
            T::reader(array.as_ref())
                .ok_or_else(|| format!("column `{name}`: expected {}, found {}", T::data_type(), array.data_type()))?,
        ),
    };
    Ok(move |i| {
        let value = match &reader {
            Some(r) => T::get(r, i),
            None => T::absent(),
        };
        value.ok_or_else(|| format!("column `{name}`, row {i}: expected a value, found null or an unknown name"))
    })
}

/// Declares a table: the row struct, its columns and its [`Row`] implementation.
///
/// ```
/// mtrace_formats::table! {
///     /// What one row means.
///     pub struct Example("examples") {
///         /// Time, ns, CLOCK_MONOTONIC.
///         ts: i64 = Delta,
///         /// Process.
///         pid: u32 = Dictionary,
///         /// Null if not measured.
///         size_bytes: Option<u64> = Plain,
///     }
/// }
/// use mtrace_formats::table::Row;
/// assert_eq!(Example::columns()[0].name, "ts");
/// ```
#[macro_export]
macro_rules! table {
    (
        $(#[doc = $doc:literal])*
        pub struct $Row:ident($table:literal $(, events = $events:ident)?) {
            $( $(#[doc = $fdoc:literal])* $field:ident : $ty:ty = $enc:ident, )+
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $Row { $( $(#[doc = $fdoc])* pub $field: $ty, )+ }

        const _: () = {
            use $crate::table::{Cell, Column, Encoding, Row, RowBuilder};

            #[derive(Default)]
            pub struct Builder { len: usize, $( $field: <$ty as Cell>::Builder, )+ }

            impl RowBuilder<$Row> for Builder {
                fn push(&mut self, row: $Row) {
                    self.len += 1;
                    $( Cell::append(row.$field, &mut self.$field); )+
                }
                fn len(&self) -> usize { self.len }
                fn finish(&mut self) -> Vec<$crate::table::__private::ArrayRef> {
                    self.len = 0;
                    vec![ $( std::sync::Arc::new(self.$field.finish()), )+ ]
                }
            }

            impl Row for $Row {
                const NAME: &'static str = $table;
                const DOC: &'static str = concat!($( $doc, "\n", )*);
                type Builder = Builder;

                $(
                    fn events(&self) -> u64 {
                        self.$events
                    }
                )?

                fn columns() -> Vec<Column> {
                    vec![ $( Column {
                        name: stringify!($field),
                        doc: concat!($( $fdoc, "\n", )*),
                        data_type: <$ty as Cell>::data_type(),
                        nullable: <$ty as Cell>::NULLABLE,
                        encoding: Encoding::$enc,
                    }, )+ ]
                }

                fn read(
                    batch: &$crate::table::__private::RecordBatch,
                    out: &mut Vec<Self>,
                ) -> Result<(), String> {
                    $( let $field = $crate::table::column::<$ty>(batch, stringify!($field))?; )+
                    out.reserve(batch.num_rows());
                    for i in 0..batch.num_rows() {
                        out.push($Row { $( $field: $field(i)?, )+ });
                    }
                    Ok(())
                }
            }
        };
    };
}

/// Declares an enum that is stored as its name (a dictionary-encoded string, readable without mtrace).
#[macro_export]
macro_rules! name_enum {
    (
        $(#[$meta:meta])*
        pub enum $Enum:ident { $( $(#[doc = $vdoc:literal])* $Variant:ident = $name:literal, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Enum { $( $(#[doc = $vdoc])* $Variant, )+ }

        impl $Enum {
            /// All values, in declaration order.
            pub const ALL: &'static [Self] = &[ $( Self::$Variant, )+ ];
            /// The name in the file.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$Variant => $name, )+ }
            }
            /// The value with this name, if there is one.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $( $name => Some(Self::$Variant), )+ _ => None }
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        const _: () = {
            use $crate::table::{Cell, OptionalCell};
            use $crate::table::__private::{Array, DataType, StringArray, StringBuilder};

            impl Cell for $Enum {
                type Builder = StringBuilder;
                type Reader<'a> = &'a StringArray;
                const NULLABLE: bool = false;
                fn data_type() -> DataType { DataType::Utf8 }
                fn append(self, b: &mut Self::Builder) { b.append_value(self.name()); }
                fn reader(array: &dyn Array) -> Option<Self::Reader<'_>> {
                    array.as_any().downcast_ref::<StringArray>()
                }
                fn get(r: &Self::Reader<'_>, i: usize) -> Option<Self> {
                    if r.is_valid(i) { Self::from_name(r.value(i)) } else { None }
                }
            }
            impl OptionalCell for $Enum {
                fn append_option(value: Option<Self>, b: &mut Self::Builder) {
                    b.append_option(value.map(Self::name));
                }
            }
        };
    };
}

#[doc(hidden)]
pub mod __private {
    pub use arrow::array::{Array, ArrayBuilder, ArrayRef, RecordBatch, StringArray, StringBuilder};
    pub use arrow::datatypes::DataType;
}
