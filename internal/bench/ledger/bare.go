package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead/replica"
)

// The bare loop: the same replica, store and transport with a state machine that
// does nothing, in three processes, loaded from inside the leader.

// bareNode is what a bare process is told, as JSON on its standard input.
type bareNode struct {
	Key      []byte
	Address  string
	Dir      string
	Founders []replica.Member
}

// idle is the state machine.
type idle struct{}

func (idle) Open(replica.View, uint64) error { return nil }
func (idle) Apply(_ *replica.Batch, commands []replica.Command, results [][]byte) ([][]byte, error) {
	for range commands {
		results = append(results, nil)
	}
	return results, nil
}

// bareOrder is a load that the leader is asked to make, a line of JSON each.
type bareOrder struct {
	Clients, Size int
	Length        time.Duration
}

type bareAnswer struct {
	Leads   bool
	Count   int
	Elapsed time.Duration
	Latency []time.Duration
}

// runBare is the process.
func runBare() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var b bareNode
	if err := json.Unmarshal(line, &b); err != nil {
		return err
	}
	key, err := replica.ParseNodeKey(b.Key)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", b.Address)
	if err != nil {
		return err
	}
	n, err := replica.Start(context.Background(), replica.Options{Store: replica.StoreOptions{FS: vfs.Default, Dir: b.Dir, Machine: idle{}},
		Key: key.Digest(), Address: b.Address, Founders: b.Founders, TrustDisks: true,
		Connect: replica.ListenTLS(replica.TLSOptions{Guard: key, Listener: l})})
	if err != nil {
		return err
	}
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return n.Close()
		}
		var o bareOrder
		if err := json.Unmarshal(line, &o); err != nil {
			return err
		}
		answer := bareAnswer{}
		if s := n.Status(); s.Leader == s.ID {
			answer = bareLoad(n, o)
		}
		if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
			return err
		}
	}
}

func bareLoad(n *replica.Node, o bareOrder) bareAnswer {
	a := bareAnswer{Leads: true}
	var mu sync.Mutex
	var wg sync.WaitGroup
	began := time.Now()
	for range o.Clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			command := make([]byte, o.Size)
			count := 0
			var sample []time.Duration
			for time.Since(began) < o.Length {
				sent := time.Now()
				if _, err := n.Propose(context.Background(), command); err == nil {
					if count++; count%16 == 0 {
						sample = append(sample, time.Since(sent))
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			a.Count += count
			a.Latency = append(a.Latency, sample...)
		}()
	}
	wg.Wait()
	a.Elapsed = time.Since(began)
	return a
}

// bare is the three processes as the bench sees them.
type bare struct {
	dir   string
	nodes []*exec.Cmd
	in    []io.WriteCloser
	out   []*json.Decoder
}

func startBare(dir string, port int) (*bare, error) {
	dir, err := os.MkdirTemp(dir, "bare-bench-")
	if err != nil {
		return nil, err
	}
	b := &bare{dir: dir}
	nodes := make([]bareNode, 3)
	var founders []replica.Member
	for i := range nodes {
		key, err := replica.GenerateNodeKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		nodes[i] = bareNode{Address: fmt.Sprintf("127.0.0.1:%d", port+i), Dir: filepath.Join(dir, fmt.Sprint(i))}
		if nodes[i].Key, err = key.Marshal(); err != nil {
			return nil, err
		}
		founders = append(founders, replica.Member{ID: uint64(i + 1), Key: key.Digest(), Address: nodes[i].Address, Voter: true})
	}
	for _, n := range nodes {
		n.Founders = founders
		cmd := exec.Command(os.Args[0], "-bare")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		b.nodes, b.in, b.out = append(b.nodes, cmd), append(b.in, in), append(b.out, json.NewDecoder(out))
		if err := json.NewEncoder(in).Encode(n); err != nil {
			return nil, err
		}
	}
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
		if f, err := b.puts(1, 1, 10*time.Millisecond); err != nil || f.count > 0 {
			return b, err
		}
	}
	return nil, fmt.Errorf("the bare loop has no leader")
}

// puts has whoever leads propose commands of a size.
func (b *bare) puts(clients, size int, length time.Duration) (*figures, error) {
	f := &figures{}
	for i := range b.in {
		if err := json.NewEncoder(b.in[i]).Encode(bareOrder{clients, size, length}); err != nil {
			return nil, err
		}
		var a bareAnswer
		if err := b.out[i].Decode(&a); err != nil {
			return nil, err
		}
		if a.Leads {
			f.count, f.elapsed, f.latency = a.Count, a.Elapsed, a.Latency
		}
	}
	return f, nil
}

func (b *bare) stop() {
	for i, n := range b.nodes {
		b.in[i].Close()
		_ = n.Wait()
	}
	os.RemoveAll(b.dir)
}
