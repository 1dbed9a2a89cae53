package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
	pb "go.etcd.io/raft/v3/raftpb"
)

const (
	takeValue  = 64 << 10 // bytes
	takeState  = 256 << 20
	takeRounds = 5
)

// take compares how fast a state of 256 MiB is taken in, checked part by part, with how fast
// as many bytes are written to one file of the same disk and synced, in turn.
func (o *order) take(t table) error {
	stream, err := stateStream()
	if err != nil {
		return err
	}
	var disk, taken, ratios []float64
	for range takeRounds {
		d, err := o.writeFile(stream)
		if err != nil {
			return err
		}
		s, err := o.takeIn(stream)
		if err != nil {
			return err
		}
		mb := float64(len(stream)) / 1e6
		disk, taken, ratios = append(disk, mb/d.Seconds()), append(taken, mb/s.Seconds()), append(ratios, d.Seconds()/s.Seconds())
	}
	t.row(fmt.Sprintf("taking in a state of %d MiB / the disk, %d rounds", takeState>>20, takeRounds), fmt.Sprintf("%.2f", median(ratios)), ">= 0.60",
		fmt.Sprintf("medians %.0f MB/s and %.0f MB/s; load average %s", median(taken), median(disk), loadAverage()))
	return nil
}

// stateStream is a snapshot of a state that does not compress, as a member sends it.
func stateStream() ([]byte, error) {
	var held *replica.Held
	cache := pebble.NewCache(8 << 20)
	defer cache.Unref()
	s, err := replica.OpenStore(replica.StoreOptions{FS: vfs.NewMem(), Dir: "data", Machine: &sim.KV{}, Cache: cache, RetainBytes: 1 << 20,
		Positioned: func(h *replica.Held) { held = h }})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.Bootstrap(1, []replica.Member{{}}); err != nil {
		return nil, err
	}
	index := s.Applied()
	apply := func(c sim.Command) error {
		index++
		data := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{1}, 1), index) // a batch of member 1
		command := c.Encode()
		data = append(binary.AppendUvarint(data, uint64(len(command))), command...)
		e := &pb.Entry{Index: new(index), Term: new(uint64(1)), Type: pb.EntryNormal.Enum(), Data: data}
		err := s.Append(&pb.Message{Entries: []*pb.Entry{e}, Responses: []*pb.Message{{}}})
		if err == nil {
			_, err = s.Apply(&pb.Message{Entries: []*pb.Entry{e}})
		}
		return err
	}
	value := make([]byte, takeValue)
	for i := uint64(1); i <= takeState/takeValue; i++ {
		_, _ = rand.Read(value) // never fails
		if err := apply(sim.Command{ID: i, Op: sim.Put, Key: fmt.Sprintf("%06d", i), New: string(value)}); err != nil {
			return nil, err
		}
	}
	if err := apply(sim.Command{Op: sim.Position}); err != nil {
		return nil, err
	}
	if held == nil {
		return nil, errors.New("take: there was no position")
	}
	if _, err := held.Read(context.Background()); err != nil {
		return nil, err
	}
	s.Stable(held.Index())
	c, err := s.Carry()
	if err != nil {
		return nil, err
	}
	var stream bytes.Buffer
	err = errors.Join(c.WriteTo(&stream), c.Done())
	if err == nil && stream.Len() < takeState {
		err = fmt.Errorf("take: the stream has %d bytes", stream.Len())
	}
	return stream.Bytes(), err
}

// writeFile writes bytes to a new file and syncs it.
func (o *order) writeFile(b []byte) (time.Duration, error) {
	path := filepath.Join(o.dir, "keystead-bench-file")
	defer os.Remove(path)
	began := time.Now()
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	return time.Since(began), err
}

// takeIn takes a state in to a new store, up to where raft would be shown it.
func (o *order) takeIn(stream []byte) (time.Duration, error) {
	dir, err := os.MkdirTemp(o.dir, "keystead-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	cache := pebble.NewCache(8 << 20)
	defer cache.Unref()
	s, err := replica.OpenStore(replica.StoreOptions{FS: vfs.Default, Dir: dir, Machine: &sim.KV{}, Cache: cache})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = s.Receive(context.Background(), bytes.NewReader(stream))
	took := time.Since(began)
	return took, errors.Join(err, s.Close())
}
