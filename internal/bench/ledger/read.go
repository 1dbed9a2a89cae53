package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keystead/keystead/client"
)

// many runs do on workers goroutines until the time is over. Do returns how much it did.
func many(workers int, length time.Duration, do func(n int) (int, error)) *figures {
	f := &figures{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var n atomic.Int64
	began := time.Now()
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for time.Since(began) < length {
				sent := time.Now()
				did, err := do(int(n.Add(1)))
				mu.Lock()
				if err != nil {
					f.failed++
					f.firstErr = err
				} else {
					f.count += did
					f.latency = append(f.latency, time.Since(sent))
				}
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	f.elapsed = time.Since(began)
	return f
}

// clients opens a client for each node, so that all are asked.
func (d *domain) clients() (out []*client.Client, err error) {
	for i := 1; i <= 3; i++ {
		c, err := client.Open(d.file, d.digest, client.Options{Only: fmt.Sprintf("n%d", i)})
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// reads reads keys linearizably, perCall of them in a call, all over the first written
// of those that a load of values of that size put.
func (d *domain) reads(cs []*client.Client, workers, perCall, size, written int, length time.Duration) *figures {
	return many(workers, length, func(n int) (int, error) {
		keys := make([]string, perCall)
		for i := range keys {
			keys[i] = benchKey(size, 0, (n*perCall+i)*7919%written+1)
		}
		r, err := cs[n%3].Read(context.Background(), false, keys...)
		if err != nil {
			return 0, err
		}
		for i, v := range r.GetValues() {
			if len(v.GetValue()) != size {
				return 0, fmt.Errorf("%s was put with %d bytes, and has %d", keys[i], size, len(v.GetValue()))
			}
		}
		return perCall, nil
	})
}

// receipts has receipts of leaves all over the tree made, perCall of them in a call,
// and verifies each.
func (d *domain) receipts(cs []*client.Client, workers, perCall int, leaves uint64, length time.Duration) *figures {
	return many(workers, length, func(n int) (int, error) {
		want := make([]uint64, perCall)
		for i := range want {
			want[i] = uint64(n*perCall+i) * 7919 % leaves
		}
		_, _, err := cs[n%3].Receipts(context.Background(), want...)
		return perCall, err
	})
}

// roundTrip is the median time of a call that touches no disk.
func (d *domain) roundTrip(c *client.Client) time.Duration {
	return many(1, time.Second, func(int) (int, error) {
		_, err := c.Read(context.Background(), true, "kv/none")
		return 1, err
	}).quantile(0.5)
}

// commit is one client's puts, one after the other.
func (d *domain) commit(c *client.Client, length time.Duration) *figures {
	return many(1, length, func(n int) (int, error) {
		_, err := c.Put(context.Background(), fmt.Sprintf("kv/one/%d", n), []byte("x"))
		return 1, err
	})
}

// fsync is the median time of appending 4 KiB to a file and syncing it, of so many files
// at once: three nodes on one disk wait for each other.
func fsync(dir string, files int) (time.Duration, error) {
	var open []*os.File
	free := make(chan *os.File, files)
	defer func() {
		for _, f := range open {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	for range files {
		f, err := os.CreateTemp(dir, "fsync-")
		if err != nil {
			return 0, err
		}
		open = append(open, f)
		free <- f
	}
	block := make([]byte, 4096)
	f := many(files, time.Second, func(n int) (int, error) {
		f := <-free
		defer func() { free <- f }()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		return 1, f.Sync()
	})
	return f.quantile(.5), f.check("fsync")
}
