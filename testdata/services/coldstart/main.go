// Coldstart is a small HTTPS service whose first request is slow because of
// memory. It is the subject of scripts/demo and of recorded test captures.
//
// At start it reserves its cache's slabs, builds the cache's index, loads the
// system's certificate pool and makes a self-signed certificate; then it
// listens. The first request fills the cache, and so is the first to touch the
// slabs: one page fault for each of their pages. It also makes some garbage,
// which starts a few GC cycles. Later requests only look a record up, except for
// one that can be made slow:
//
//	-late 32 -late-mib 200          request 32 writes a report of 200 MiB into fresh memory
//	-late 32 -late-downstream 300ms control: request 32 waits for a backend that answers late
//
// Controls:
//
//	-prefault              touches the slabs before listening: the first request is fast
//	-slow-downstream 300ms the first request waits for a backend that answers late:
//	                       slow as well, and not because of memory (use it with -prefault)
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"coldstart/cache"
)

type options struct {
	addr           string
	cacheMiB       int
	garbageMiB     int
	prefault       bool
	requests       int64
	slowDownstream time.Duration
	late           int64
	lateMiB        int
	lateDownstream time.Duration
	stats          bool
	thp            string
}

func parseOptions() options {
	var o options
	flag.StringVar(&o.addr, "addr", "127.0.0.1:8443", "`address` to listen on; port 0 takes a free one")
	flag.IntVar(&o.cacheMiB, "cache-mib", 256, "size of the cache's slabs in `MiB`; 0: no cache")
	flag.IntVar(&o.garbageMiB, "garbage-mib", 48, "what the first request allocates and drops, in `MiB`")
	flag.BoolVar(&o.prefault, "prefault", false, "touch the slabs before listening")
	flag.Int64Var(&o.requests, "requests", 0, "exit after `N` requests; 0: run until a signal")
	flag.DurationVar(&o.slowDownstream, "slow-downstream", 0, "the first request waits this `long` for a backend")
	flag.Int64Var(&o.late, "late", 0, "request `N` is a slow one, from 1; 0: none is")
	flag.IntVar(&o.lateMiB, "late-mib", 0, "what that request writes into fresh memory, in `MiB`")
	flag.DurationVar(&o.lateDownstream, "late-downstream", 0, "how `long` that request waits for a backend")
	flag.BoolVar(&o.stats, "stats", false, "print one line of JSON with the process's own counts at exit")
	flag.StringVar(&o.thp, "thp", "off", "transparent huge pages: `off`, or host (whatever the host has set)")
	flag.Parse()
	if flag.NArg() > 0 || o.cacheMiB < 0 || o.garbageMiB < 0 || o.lateMiB < 0 || (o.thp != "off" && o.thp != "host") {
		flag.Usage()
		os.Exit(2)
	}
	return o
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("coldstart: ")
	o := parseOptions()
	if err := run(o); err != nil {
		log.Fatal(err)
	}
}

func run(o options) error {
	if o.thp == "off" {
		disableHugePages()
	}
	store := cache.New(o.cacheMiB)
	if os.Getenv("GOGC") == "" {
		// The slabs dominate the heap: at the default of 100 % garbage could
		// grow to their size before it is collected.
		debug.SetGCPercent(5)
	}
	roots := loadRoots()
	certificate, err := selfSigned()
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	if o.prefault {
		store.Prefault()
	}
	s := &server{
		store: store, garbageBytes: o.garbageMiB << 20, limit: o.requests, done: make(chan struct{}),
		late: o.late, lateBytes: o.lateMiB << 20,
	}
	if o.slowDownstream > 0 {
		if s.backend, err = startBackend(o.slowDownstream); err != nil {
			return fmt.Errorf("start the backend: %w", err)
		}
	}
	if o.lateDownstream > 0 {
		if s.lateBackend, err = startBackend(o.lateDownstream); err != nil {
			return fmt.Errorf("start the backend: %w", err)
		}
	}

	listener, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	return serve(s, o, tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		RootCAs:      roots,
		NextProtos:   []string{"http/1.1"},
	}))
}

// serve answers requests until the limit or a signal, then waits for those under way.
func serve(s *server, o options, listener net.Listener) error {
	web := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	select {
	case err := <-failed:
		return err
	case <-stop.Done():
	case <-s.done:
	}
	ctx, cancelWait := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancelWait()
	if err := web.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	if o.stats {
		return json.NewEncoder(os.Stdout).Encode(s.stats())
	}
	return nil
}

// loadRoots reads the system's certificates: tens of milliseconds of CPU time
// and a few MiB at start. A machine without any is fine: nobody is called.
//
//go:noinline
func loadRoots() *x509.CertPool {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool()
	}
	return roots
}

// disableHugePages asks the kernel for 4 KiB pages in this process, as many
// databases and caches do, because a huge page makes one write cost 2 MiB.
// With huge pages (THP set to "always", -thp=host) the first request takes one
// fault of some hundred microseconds for each 2 MiB instead of 512 short ones.
func disableHugePages() {
	const prSetTHPDisable = 41 // linux/prctl.h, since 3.15
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetTHPDisable, 1, 0, 0, 0, 0); errno != 0 {
		log.Printf("transparent huge pages stay as the host has them: prctl: %v", errno)
	}
}
