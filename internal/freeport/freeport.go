// Package freeport gives tests addresses to listen on that no other test of this
// machine is given, and that no outgoing connection takes: they lie below the range
// of ephemeral ports, so that a node that is stopped finds its own free again.
//
// A process claims blocks of ports by listening on a name in the abstract socket
// namespace, which ends with the process and is each network namespace's own.
package freeport

import (
	"fmt"
	"net"
	"os"
	"sync"
)

// Size is how many ports a block has.
const Size = 256

// The blocks lie in [first, last); Linux hands out ephemeral ports from 32768 on.
const (
	first  = 10 * 1024
	last   = 32 * 1024
	blocks = (last - first) / Size
)

var claimed struct {
	mu         sync.Mutex
	held       []net.Listener // until the process ends
	next, last int            // ports of the block in use
}

// Next returns a port that is free on loopback, and that nobody else is given while
// this process lives.
func Next() (int, error) {
	claimed.mu.Lock()
	defer claimed.mu.Unlock()
	if claimed.next == claimed.last {
		base, err := claim()
		if err != nil {
			return 0, err
		}
		claimed.next, claimed.last = base, base+Size
	}
	claimed.next++
	return claimed.next - 1, nil
}

// Block returns the first of Size ports in a row, of which the same holds.
func Block() (int, error) {
	claimed.mu.Lock()
	defer claimed.mu.Unlock()
	return claim()
}

// claim finds a block that nobody holds and whose ports are all free.
func claim() (int, error) {
	for i := range blocks {
		base := first + (os.Getpid()+i)%blocks*Size
		l, err := net.Listen("unix", fmt.Sprintf("@keystead-ports-%d", base))
		if err != nil {
			continue
		}
		if !free(base) {
			l.Close()
			continue
		}
		claimed.held = append(claimed.held, l)
		return base, nil
	}
	return 0, fmt.Errorf("none of %d blocks of ports from %d to %d is free", blocks, first, last)
}

func free(base int) bool {
	for port := base; port < base+Size; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
