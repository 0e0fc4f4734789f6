// Command gomemory makes the Go runtime work for its memory, and says at its
// end what the runtime itself has counted.
//
//	gomemory [-live-mib 64] [-garbage-mib 1024] [-workers 4]
//
// Workers replace parts of a live heap of small linked nodes, so that they
// allocate while the collector marks and have to assist it. Then half of the
// heap is given up, and debug.FreeOSMemory has the scavenger give it back.
// Settings are changed with debug.SetGCPercent and debug.SetMemoryLimit.
package main

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

type node struct {
	next *node
	pad  [56]byte
}

//go:noinline
func buildList(nodes int) *node {
	var head *node
	for range make([]struct{}, nodes) {
		head = &node{next: head}
	}
	return head
}

const listNodes = 1 << 14 // 1 MiB

//go:noinline
func replaceLists(lists []*node, rounds int) {
	for i := 0; i < rounds; i++ {
		lists[i%len(lists)] = buildList(listNodes)
	}
}

func read(name string) any {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	switch sample[0].Value.Kind() {
	case metrics.KindUint64:
		return sample[0].Value.Uint64()
	case metrics.KindFloat64:
		return sample[0].Value.Float64()
	}
	panic(name + " is not a metric of this Go")
}

func main() {
	live := flag.Int("live-mib", 64, "live heap in MiB")
	garbage := flag.Int("garbage-mib", 1024, "allocated beyond that in MiB")
	workers := flag.Int("workers", 4, "goroutines that allocate")
	flag.Parse()
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(8 << 30)
	lists := make([]*node, *live)
	replaceLists(lists, *live)
	var done sync.WaitGroup
	share := len(lists) / *workers
	for w := 0; w < *workers; w++ {
		done.Add(1)
		go func(part []*node) {
			defer done.Done()
			replaceLists(part, *garbage / *workers)
		}(lists[w*share : (w+1)*share])
	}
	done.Wait()
	for i := range lists[:len(lists)/2] {
		lists[i] = nil
	}
	runtime.GC()
	debug.SetMemoryLimit(-1) // only asks: where a recording has to count from
	before := read("/memory/classes/heap/released:bytes").(uint64)
	debug.FreeOSMemory()
	after := read("/memory/classes/heap/released:bytes").(uint64)
	heap := uint64(0)
	for _, class := range []string{"free", "objects", "released", "stacks", "unused"} {
		heap += read("/memory/classes/heap/" + class + ":bytes").(uint64)
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Printf("{\"gc_cycles\":%d,\"assist_seconds\":%v,\"heap_mapped_bytes\":%d,\"scavenged_bytes\":%d}\n",
		stats.NumGC, read("/cpu/classes/gc/mark/assist:cpu-seconds"), heap, after-before)
	runtime.KeepAlive(lists)
}
