package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/receipt"
)

// domain is a running domain of node processes on this machine.
type domain struct {
	dir    string
	nodes  []*exec.Cmd
	file   *client.Domain
	digest keystead.Digest
}

// startDomain founds a domain of three processes in a new directory under dir and
// waits until it has a checkpoint. Run makes the command of a node of a configuration.
func startDomain(program, dir string, port int, run func(config string) (*exec.Cmd, error)) (*domain, error) {
	return startFounded(program, dir, port, run, func(string) error { return nil })
}

// startFounded is startDomain, with what is changed in the domain's directory before the
// nodes start.
func startFounded(program, dir string, port int, run func(config string) (*exec.Cmd, error), change func(dir string) error) (*domain, error) {
	dir, err := os.MkdirTemp(dir, "keystead-bench-")
	if err != nil {
		return nil, err
	}
	d := &domain{dir: dir}
	out, err := exec.Command(program, "domain", "init", "bench", "--local", "3", "--dir", filepath.Join(dir, "d"), "--port", fmt.Sprint(port)).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	if err := change(filepath.Join(dir, "d")); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "d", "domain.json"))
	if err != nil {
		return nil, err
	}
	if d.file, err = client.ParseDomain(raw); err != nil {
		return nil, err
	}
	entry, err := receipt.NoteEntry(d.file.Genesis)
	if err != nil {
		return nil, err
	}
	d.digest = keystead.Sum(entry)
	for i := 1; i <= 3; i++ {
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("n%d.log", i)))
		if err != nil {
			return nil, err
		}
		cmd, err := run(filepath.Join(dir, "d", fmt.Sprintf("n%d", i), "keystead.toml"))
		if err != nil {
			return nil, err
		}
		cmd.Stderr = log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		d.nodes = append(d.nodes, cmd)
	}
	return d, d.ready()
}

func (d *domain) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.Open(d.file, d.digest, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		if s, err := c.Status(ctx); err == nil && s.GetCheckpointSize() > 0 && s.GetFresh() {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return ctx.Err()
}

// connect opens a client for each node, and returns them with the one of the leader and its name.
func (d *domain) connect() (cs []*client.Client, leader *client.Client, name string, err error) {
	if cs, err = d.clients(); err == nil {
		name, err = d.leader(context.Background())
	}
	if err != nil {
		return nil, nil, "", err
	}
	return cs, cs[name[1]-'1'], name, nil
}

// leader returns the name of the node that leads.
func (d *domain) leader(ctx context.Context) (string, error) {
	c, err := client.Open(d.file, d.digest, client.Options{})
	if err != nil {
		return "", err
	}
	defer c.Close()
	s, err := c.Status(ctx)
	return s.GetLeader(), err
}

func (d *domain) stop() {
	for _, n := range d.nodes {
		_ = n.Process.Signal(syscall.SIGTERM) // it may be gone
	}
	for _, n := range d.nodes {
		_ = n.Wait()
	}
	os.RemoveAll(d.dir)
}

// rss returns the resident memory of all nodes, in bytes.
func (d *domain) rss() (total int64) {
	for _, n := range d.nodes {
		var size, resident int64
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.Process.Pid))
		if err == nil {
			fmt.Sscan(string(b), &size, &resident)
		}
		total += resident * int64(os.Getpagesize())
	}
	return total
}

// disk returns the bytes of all nodes' stores.
func (d *domain) disk() (total int64) {
	_ = filepath.Walk(d.dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil // files come and go under a running store
	})
	return total
}
