package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"coldstart/cache"
)

// server answers GET /record/KEY.
type server struct {
	store        *cache.Store
	garbageBytes int
	backend      string // address of a backend to ask once; "" for none
	limit        int64  // requests to answer before done is closed; 0 for no limit

	late        int64  // number of the request that is made slow; 0 for none
	lateBytes   int    // what it writes into fresh memory
	lateBackend string // address of a backend that it asks; "" for none

	warm    sync.Once
	warmErr error
	asked   atomic.Int64
	served  atomic.Int64
	done    chan struct{}

	fillFaults, fillNs int64 // what warmUp measured around the fill
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer s.count()
	s.warm.Do(s.warmUp)
	err := s.warmErr
	if s.asked.Add(1) == s.late {
		err = errors.Join(err, s.beSlow())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if s.store.Len() == 0 {
		fmt.Fprintln(w, "ok: no cache")
		return
	}
	const prefix = "/record/"
	if len(r.URL.Path) <= len(prefix) || r.URL.Path[:len(prefix)] != prefix {
		http.NotFound(w, r)
		return
	}
	value, sum, err := s.store.Get(r.URL.Path[len(prefix):])
	if errors.Is(err, cache.ErrNotFound) {
		http.NotFound(w, r)
		return
	}
	fmt.Fprintf(w, "%x %016x\n", value, sum)
}

// warmUp is what the first request waits for.
//
//go:noinline
func (s *server) warmUp() {
	if s.backend != "" {
		s.warmErr = askBackend(s.backend)
	}
	before, start := minorFaults(), time.Now()
	s.store.Fill()
	s.fillNs, s.fillFaults = time.Since(start).Nanoseconds(), minorFaults()-before
	summarise(s.garbageBytes)
}

// beSlow is what one later request waits for.
//
//go:noinline
func (s *server) beSlow() error {
	if s.lateBytes > 0 {
		keep(writeReport(s.lateBytes))
	}
	if s.lateBackend != "" {
		return askBackend(s.lateBackend)
	}
	return nil
}

// writeReport fills a buffer that is fresh from the kernel: one page fault a page.
//
//go:noinline
func writeReport(bytes int) []byte {
	report := make([]byte, bytes)
	for i := 0; i < len(report); i += cache.PageSize {
		copy(report[i:], "report page ")
	}
	return report
}

// summarise writes a summary of made-up rows into buffers that nobody keeps:
// garbage of the given size, for the collector.
//
//go:noinline
func summarise(bytes int) int {
	const bufferBytes = 64 << 10
	rows := 0
	for ; bytes > 0; bytes -= bufferBytes {
		buffer := make([]byte, 0, bufferBytes)
		for len(buffer) < bufferBytes/8 {
			buffer = append(buffer, "row "...)
			buffer = strconv.AppendInt(buffer, int64(rows), 10)
			buffer = append(buffer, '\n')
			rows++
		}
		keep(buffer)
	}
	return rows
}

// keep lets its argument escape to the heap.
//
//go:noinline
func keep(buffer []byte) { kept.Store(&buffer) }

var kept atomic.Pointer[[]byte]

// count closes done after the last request that is to be answered.
func (s *server) count() {
	if s.served.Add(1) == s.limit {
		close(s.done)
	}
}

// startBackend starts a TCP service that answers every line late.
func startBackend(delay time.Duration) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			time.Sleep(delay)
			fmt.Fprintln(conn, "ready")
			conn.Close()
		}
	}()
	return listener.Addr().String(), nil
}

// askBackend waits for the backend's word.
//
//go:noinline
func askBackend(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	defer conn.Close()
	var answer [16]byte
	if _, err := conn.Read(answer[:]); err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	return nil
}

// stats are the process's own counts, to compare a recording with. The faults
// are getrusage's, of the whole process up to the call.
type stats struct {
	Requests   int64  `json:"requests"`
	CachePages int    `json:"cache_pages"`
	FillFaults int64  `json:"fill_minflt"`
	FillNs     int64  `json:"fill_ns"`
	Minflt     int64  `json:"minflt"`
	Majflt     int64  `json:"majflt"`
	GCCycles   uint32 `json:"gc_cycles"`
}

func (s *server) stats() stats {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	var usage syscall.Rusage
	// It fails for a bad pointer only.
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return stats{
		Requests: s.served.Load(), CachePages: s.store.Len(),
		FillFaults: s.fillFaults, FillNs: s.fillNs,
		Minflt: usage.Minflt, Majflt: usage.Majflt, GCCycles: memory.NumGC,
	}
}

func minorFaults() int64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return usage.Minflt
}
