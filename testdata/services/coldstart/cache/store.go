// Package cache is a record cache: an index that is built at start, and large
// slabs that hold one record a page.
//
// It has the flaw that this service is here to show. The slabs are made at
// start, which costs next to nothing, because the kernel maps memory without
// backing it. The first call of Fill is the first to touch them, so that call
// pays one page fault a page, and the service makes it on the request path.
package cache

import (
	"errors"
	"hash/fnv"
	"strconv"
)

const (
	// PageSize is the unit in which the kernel backs memory on the machines
	// that this runs on, and the size of one record's slot.
	PageSize = 4096
	// slabBytes is large enough for the runtime to take each slab from the
	// kernel as a span of its own, fresh and therefore not zeroed by it.
	slabBytes = 16 << 20
	// valueBytes is what a record carries behind its header.
	valueBytes  = 48
	headerBytes = 8
	recordLive  = 1
)

// ErrNotFound is what Get returns for a key that the index does not have.
var ErrNotFound = errors.New("no such record")

// Store holds the records. Make it with New; call Fill once, before the first Get.
type Store struct {
	slabs [][]byte
	index map[string]uint32
}

// New reserves mib MiB of slabs and builds the index of all keys.
func New(mib int) *Store {
	s := &Store{}
	s.reserve(mib << 20)
	s.buildIndex()
	return s
}

// reserve makes the slabs. Nothing reads or writes them here.
//
//go:noinline
func (s *Store) reserve(bytes int) {
	for bytes > 0 {
		size := min(bytes, slabBytes)
		s.slabs = append(s.slabs, make([]byte, size))
		bytes -= size
	}
}

// buildIndex assigns a slot to every key.
//
//go:noinline
func (s *Store) buildIndex() {
	n := s.Len()
	s.index = make(map[string]uint32, n)
	for i := 0; i < n; i++ {
		s.index[Key(i)] = uint32(i)
	}
}

// Key is the name of record i.
func Key(i int) string { return "record-" + strconv.Itoa(i) }

// Len is the number of records: one a page.
func (s *Store) Len() int {
	n := 0
	for _, slab := range s.slabs {
		n += len(slab) / PageSize
	}
	return n
}

// Fill writes every record into its page.
//
//go:noinline
func (s *Store) Fill() {
	record := uint32(0)
	for _, slab := range s.slabs {
		for off := 0; off+PageSize <= len(slab); off += PageSize {
			page := slab[off : off+PageSize]
			page[0] = recordLive // the first touch of this page
			page[1] = valueBytes
			page[2] = byte(record)
			page[3] = byte(record >> 8)
			page[4] = byte(record >> 16)
			page[5] = byte(record >> 24)
			fillValue(page[headerBytes:headerBytes+valueBytes], record)
			record++
		}
	}
}

// fillValue derives the record's bytes from its number.
func fillValue(value []byte, record uint32) {
	state := record*2654435761 + 1
	for i := range value {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		value[i] = byte(state)
	}
}

// Prefault touches every page, so that Fill finds them all backed. Called
// before the service listens, it is the repair of the flaw: the same faults,
// at start instead of in the first request.
//
//go:noinline
func (s *Store) Prefault() {
	for _, slab := range s.slabs {
		for off := 0; off < len(slab); off += PageSize {
			slab[off] = 0
		}
	}
}

// Get returns the value of key and its checksum.
func (s *Store) Get(key string) ([]byte, uint64, error) {
	slot, ok := s.index[key]
	if !ok {
		return nil, 0, ErrNotFound
	}
	perSlab := uint32(slabBytes / PageSize)
	slab := s.slabs[slot/perSlab]
	off := int(slot%perSlab) * PageSize
	page := slab[off : off+PageSize]
	if page[0] != recordLive {
		return nil, 0, ErrNotFound
	}
	value := page[headerBytes : headerBytes+int(page[1])]
	sum := fnv.New64a()
	sum.Write(value)
	return value, sum.Sum64(), nil
}
