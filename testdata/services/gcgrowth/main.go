// Command gcgrowth lets its heap grow while the garbage collector is marking.
//
//	gcgrowth [-live-mib 96] [-rounds 4] [-grow-mib 32] [-apart]
//
// It builds a live heap of small linked nodes (slow to mark). Then, in each
// round, one goroutine runs a collection while another allocates buffers that
// are kept: the growth falls into the cycle. With -apart the same buffers are
// allocated after the collection: the control, with the same growth outside
// of cycles. Automatic collections are switched off, so that there are no
// other cycles.
package main

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

type node struct {
	next *node
	pad  [48]byte
}

//go:noinline
func buildList(head *node, mib int) *node {
	for range mib << 20 / 64 {
		head = &node{next: head}
	}
	return head
}

//go:noinline
func growBuffers(buffers [][]byte, mib int) [][]byte {
	for range mib {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		buffers = append(buffers, b)
	}
	return buffers
}

func main() {
	live := flag.Int("live-mib", 96, "live heap in MiB before the growth")
	rounds := flag.Int("rounds", 4, "collections")
	grow := flag.Int("grow-mib", 32, "growth in each round in MiB")
	apart := flag.Bool("apart", false, "the control: grow after the collection")
	flag.Parse()
	debug.SetGCPercent(-1)
	keep := buildList(nil, *live)
	var buffers [][]byte
	for range *rounds {
		collected := make(chan bool)
		go func() {
			runtime.GC()
			close(collected)
		}()
		if *apart {
			<-collected
			buffers = growBuffers(buffers, *grow)
		} else {
			time.Sleep(time.Millisecond) // let the cycle begin
			buffers = growBuffers(buffers, *grow)
			<-collected
		}
		time.Sleep(20 * time.Millisecond)
	}
	runtime.KeepAlive(keep)
	runtime.KeepAlive(buffers)
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Printf("{\"gc_cycles\":%d,\"heap_sys_mib\":%d}\n", stats.NumGC, stats.HeapSys>>20)
}
