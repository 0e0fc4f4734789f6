// Client is the other side of coldstart: it waits until the service listens,
// sends requests one after the other over one connection, and prints how long
// each took. The first one includes the TLS handshake, as it does for a user.
//
// With -before and -hold-until the connection is older than what is measured: it
// sends some requests, says so, and goes on over the same connection when a file
// appears. That is what a recorder meets that attaches to a service at work.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("client: ")
	addr := flag.String("addr", "127.0.0.1:8443", "the service's `address`")
	addrFrom := flag.String("addr-from", "", "read the address from the line 'listening on ADDRESS' of `FILE`, once it is there")
	requests := flag.Int("requests", 10, "send `K` requests")
	before := flag.Int("before", 0, "send `N` requests first, which are not measured")
	holdUntil := flag.String("hold-until", "", "after those print 'holding' and wait until `FILE` exists")
	wait := flag.Duration("wait", 60*time.Second, "how `long` to wait for the service, and for one answer")
	asJSON := flag.Bool("json", false, "print one line of JSON instead of text")
	flag.Parse()
	if flag.NArg() > 0 || *requests < 1 || *before < 0 {
		flag.Usage()
		os.Exit(2)
	}
	latencies, err := measure(*addr, *addrFrom, plan{*before, *holdUntil, *requests}, *wait)
	if err != nil {
		log.Fatal(err)
	}
	if *asJSON {
		err = printJSON(latencies)
	} else {
		printText(latencies)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// keys are those that even a small cache has.
const keys = 2048

// plan is what is sent, and when.
type plan struct {
	before    int
	holdUntil string
	requests  int
}

func measure(addr, addrFrom string, p plan, wait time.Duration) ([]time.Duration, error) {
	deadline := time.Now().Add(wait)
	if addrFrom != "" {
		var err error
		if addr, err = readAddr(addrFrom, deadline); err != nil {
			return nil, err
		}
	}
	conn, err := connect(addr, deadline)
	if err != nil {
		return nil, err
	}
	web := clientOver(conn, wait)
	send := func(i int) error {
		if err := get(web, fmt.Sprintf("https://%s/record/record-%d", addr, i*7%keys)); err != nil {
			return fmt.Errorf("request %d: %w", i+1, err)
		}
		return nil
	}
	for i := 0; i < p.before; i++ {
		if err := send(i); err != nil {
			return nil, err
		}
	}
	if p.holdUntil != "" {
		fmt.Println("holding")
		if err := waitForFile(p.holdUntil, time.Now().Add(wait)); err != nil {
			return nil, err
		}
	}
	latencies := make([]time.Duration, 0, p.requests)
	for i := 0; i < p.requests; i++ {
		start := time.Now()
		if err := send(p.before + i); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(start))
	}
	return latencies, nil
}

func waitForFile(path string, deadline time.Time) error {
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not appear", path)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// readAddr waits for the service to say where it listens.
func readAddr(path string, deadline time.Time) (string, error) {
	for {
		if file, err := os.Open(path); err == nil {
			lines := bufio.NewReader(file)
			for {
				// A line without its end is still being written.
				line, err := lines.ReadString('\n')
				if err != nil {
					break
				}
				if addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on "); ok {
					file.Close()
					return addr, nil
				}
			}
			file.Close()
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("%s: no line 'listening on ADDRESS'", path)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// connect tries until somebody listens. The connection that succeeds is the
// one that is used: the service never sees one that only probed.
func connect(addr string, deadline time.Time) (net.Conn, error) {
	for {
		conn, err := net.DialTimeout("tcp", addr, time.Until(deadline))
		if err == nil {
			return conn, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("nobody listens: %w", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// clientOver sends everything over conn. The service's certificate is
// self-signed and made at its start, so there is nothing to check it against.
func clientOver(conn net.Conn, timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				if conn == nil {
					return nil, errors.New("the service closed the connection")
				}
				used := conn
				conn = nil
				return used, nil
			},
		},
	}
}

func get(web *http.Client, url string) error {
	answer, err := web.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// laterMedian is the median of all but the first; 0 when there was one only.
func laterMedian(latencies []time.Duration) time.Duration {
	if len(latencies) < 2 {
		return 0
	}
	later := slices.Clone(latencies[1:])
	slices.Sort(later)
	return later[len(later)/2]
}

func printText(latencies []time.Duration) {
	for i, latency := range latencies {
		fmt.Printf("request %2d  %10.3f ms\n", i+1, milliseconds(latency))
	}
	if median := laterMedian(latencies); median > 0 {
		fmt.Printf("first %.1f ms, later %.3f ms (median of %d)\n",
			milliseconds(latencies[0]), milliseconds(median), len(latencies)-1)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func printJSON(latencies []time.Duration) error {
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"latencies_ns":    latencies,
		"first_ns":        latencies[0],
		"later_median_ns": laterMedian(latencies),
	})
}
