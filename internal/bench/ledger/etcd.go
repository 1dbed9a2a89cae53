package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
)

// etcd is three etcd processes with fsync, as Debian packages it.
type etcd struct {
	dir   string
	nodes []*exec.Cmd
}

func startEtcd(dir string, port int) (*etcd, error) {
	dir, err := os.MkdirTemp(dir, "etcd-bench-")
	if err != nil {
		return nil, err
	}
	e := &etcd{dir: dir}
	var cluster []string
	for i := range 3 {
		cluster = append(cluster, fmt.Sprintf("m%d=http://127.0.0.1:%d", i, port+10+i))
	}
	for i := range 3 {
		client, peer := fmt.Sprintf("http://127.0.0.1:%d", port+i), fmt.Sprintf("http://127.0.0.1:%d", port+10+i)
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("m%d.log", i)))
		if err != nil {
			return nil, err
		}
		cmd := exec.Command("etcd", "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprint(i)),
			"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		e.nodes = append(e.nodes, cmd)
	}
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if f := etcdPuts(port, 1, []byte("x"), 100*time.Millisecond); f.count > 0 {
			return e, nil
		}
	}
	return nil, errors.New("etcd does not answer")
}

func (e *etcd) stop() {
	for _, n := range e.nodes {
		_ = n.Process.Kill() // it may be gone
		_ = n.Wait()
	}
	os.RemoveAll(e.dir)
}

// raw is a codec for messages that are bytes already.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(m any) ([]byte, error) {
	return *m.(*[]byte), nil
}
func (raw) Unmarshal(b []byte, m any) error {
	*m.(*[]byte) = append([]byte(nil), b...)
	return nil
}

// etcdPuts loads etcd over gRPC: clients puts under way at any time, over all three
// members, a connection for each.
func etcdPuts(port, clients int, value []byte, length time.Duration) *figures {
	f := &figures{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var n atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), length+10*time.Second)
	defer cancel()
	began := time.Now()
	var apis []*connect.Client[[]byte, []byte]
	for i := range 3 {
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		t := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{}, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext}
		defer t.CloseIdleConnections()
		apis = append(apis, connect.NewClient[[]byte, []byte](&http.Client{Transport: t},
			fmt.Sprintf("http://127.0.0.1:%d/etcdserverpb.KV/Put", port+i), connect.WithGRPC(), connect.WithCodec(raw{})))
	}
	for c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for time.Since(began) < length {
				msg := protowire.AppendTag(nil, 1, protowire.BytesType)
				msg = protowire.AppendString(msg, fmt.Sprintf("kv/bench/%d", n.Add(1)))
				msg = protowire.AppendTag(msg, 2, protowire.BytesType)
				msg = protowire.AppendBytes(msg, value)
				sent := time.Now()
				_, err := apis[c%3].CallUnary(ctx, connect.NewRequest(&msg))
				mu.Lock()
				if err != nil {
					f.failed++
					f.firstErr = err
				} else {
					f.count++
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
