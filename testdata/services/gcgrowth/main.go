// Command gcgrowth lets its heap grow while the garbage collector is marking.
//
//	gcgrowth [-live-mib 192] [-rounds 6] [-steady]
//
// It builds a live heap of small linked nodes (slow to mark), then allocates
// more of them from several goroutines, so that the growth falls into the
// cycles that it provokes. With -steady it allocates the same amount without
// keeping it and with pauses: the control, whose heap does not grow.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

type node struct {
	next *node
	pad  [48]byte
}

//go:noinline
func growList(head *node, mib int) *node {
	for range mib << 20 / 64 {
		head = &node{next: head}
	}
	return head
}

func main() {
	live := flag.Int("live-mib", 192, "live heap in MiB before the growth")
	rounds := flag.Int("rounds", 6, "rounds of growth")
	steady := flag.Bool("steady", false, "the control: no growth")
	flag.Parse()
	keep := growList(nil, *live)
	if *steady {
		for range *rounds * 4 {
			growList(nil, 4)
			time.Sleep(20 * time.Millisecond)
		}
	} else {
		lists := make([]*node, 4)
		for range *rounds {
			var workers sync.WaitGroup
			for i := range lists {
				workers.Add(1)
				go func() {
					defer workers.Done()
					lists[i] = growList(lists[i], 24)
				}()
			}
			workers.Wait()
		}
		runtime.KeepAlive(lists)
	}
	runtime.KeepAlive(keep)
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Fprintf(os.Stdout, "{\"gc_cycles\":%d,\"heap_sys_mib\":%d}\n", stats.NumGC, stats.HeapSys>>20)
}
