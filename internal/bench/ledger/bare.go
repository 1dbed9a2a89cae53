package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/serve"
)

// The bare loop: the same replica, store, transport and API with a state machine that
// does nothing, in three processes. It is the yardstick twice: loaded by the same
// clients over the same API as a domain, which leaves the cost of the ledger and its
// state as the difference; and loaded from inside the leader's process, without
// clients and API, which is what the loop alone could do.

// idle is the state machine.
type idle struct{}

func (idle) Open(replica.View, uint64) error { return nil }
func (idle) Position([]byte) bool            { return false }
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

// runBare is the process: the node of a configuration, with its keys, addresses and
// API, and a state machine that does nothing. It takes orders for loads from within
// on its standard input.
func runBare(config string) error {
	cfg, err := node.ReadConfig(config)
	if err != nil {
		return err
	}
	dir := filepath.Dir(config)
	id, err := node.LoadIdentity(context.Background(), dir, nil)
	if err != nil {
		return err
	}
	b := &bareNode{}
	var founders []replica.Member
	raw, err := os.ReadFile(filepath.Join(dir, "domain.json"))
	if err != nil {
		return err
	}
	file, err := client.ParseDomain(raw)
	if err != nil {
		return err
	}
	for i, signed := range file.Contacts {
		c, err := client.OpenContact(signed)
		if err != nil {
			return err
		}
		founders = append(founders, replica.Member{ID: uint64(i + 1), Key: c.TLS, Address: c.Peer, Voter: true})
		b.names = append(b.names, c.Name)
	}
	l, err := net.Listen("tcp", cfg.Peer.Listen)
	if err != nil {
		return err
	}
	b.replica, err = replica.Start(context.Background(), replica.Options{
		Store: replica.StoreOptions{FS: vfs.Default, Dir: filepath.Join(dir, "bare"), Machine: idle{}},
		Key:   id.Pin, Address: cfg.Peer.Listen, Founders: founders, TrustDisks: true,
		Connect: replica.ListenTLS(replica.TLSOptions{Guard: id.Peer, Listener: l})})
	if err != nil {
		return err
	}
	if err := b.serve(cfg, id); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return b.replica.Close()
		}
		var o bareOrder
		if err := json.Unmarshal(line, &o); err != nil {
			return err
		}
		answer := bareAnswer{}
		if s := b.replica.Status(); s.Leader == s.ID {
			answer = bareLoad(b.replica, o)
		}
		if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
			return err
		}
	}
}

// bareNode answers the API of a node, as far as puts need it.
type bareNode struct {
	serve.Ledger // what is not here is not asked for
	serve.Domain
	replica *replica.Node
	names   []string // by raft id less one
}

// serve has the node's API answered as a node does.
func (b *bareNode) serve(cfg node.Config, id *node.Identity) error {
	l, err := net.Listen("tcp", cfg.API.Listen)
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	opts := serve.Options{InFlight: cfg.API.MaxInFlight, Timeout: time.Duration(cfg.API.TimeoutMS) * time.Millisecond}
	s := &http.Server{Protocols: protocols,
		Handler:   serve.New(append(serve.LedgerProcedures(b, &opts), serve.DomainProcedures(b)...), opts),
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 4096, MaxReceiveBufferPerConnection: 16 << 20, MaxReceiveBufferPerStream: 4 << 20},
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{id.TLS}, SessionTicketsDisabled: true}}
	go func() { _ = s.ServeTLS(l, "", "") }() // the bench sees when it ends
	return nil
}

// Execute implements serve.Ledger: the entry of a node, and what became of it untold.
func (b *bareNode) Execute(_ context.Context, request ledger.RequestID, ops []ledger.Op, done func(part.Outcome, error)) {
	tx, err := ledger.Execute(ledger.View{}, request, ops)
	var entry []byte
	if err == nil {
		entry, err = tx.Entry()
	}
	if err != nil {
		done(part.Outcome{}, err)
		return
	}
	b.replica.Submit(&replica.Proposal{Command: entry, Done: func(p *replica.Proposal) { done(part.Outcome{Applied: true}, p.Err) }})
}

// Status implements serve.Domain.
func (b *bareNode) Status() *apiv1.StatusResponse {
	s := b.replica.Status()
	out := &apiv1.StatusResponse{DomainClockMs: uint64(time.Now().UnixMilli()), Fresh: true, Applied: s.Applied}
	if s.Leader > 0 {
		out.Leader, out.CheckpointSize = b.names[s.Leader-1], 1
	}
	return out
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

// bare is the three processes as the bench sees them: a domain whose state machine
// does nothing, loaded like one.
type bare struct {
	*domain
	in  []io.WriteCloser
	out []*json.Decoder
}

func startBare(program, dir string, port int) (*bare, error) {
	b := &bare{}
	var err error
	b.domain, err = startDomain(program, dir, port, func(config string) (*exec.Cmd, error) {
		cmd := exec.Command(os.Args[0], "-bare", config)
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		b.in, b.out = append(b.in, in), append(b.out, json.NewDecoder(out))
		return cmd, err
	})
	return b, err
}

// inside has whoever leads propose commands of a size within its process.
func (b *bare) inside(clients, size int, length time.Duration) (*figures, error) {
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
	if f.count == 0 {
		return nil, fmt.Errorf("the bare loop has no leader")
	}
	return f, nil
}
