package node_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
)

// metric demands a line of a node's metrics, and waits for it.
func (c *cluster) metric(i int, line string) {
	c.t.Helper()
	text := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, text, _ = c.asked(i, "/metrics"); strings.Contains(text, line+"\n") {
			return
		}
	}
	c.t.Fatalf("%s has no %s among\n%s", c.nodes[i].place.Name, line, text)
}

// TestAllDisksFull lets the disks of all nodes run full, by what clients write and then by
// somebody else to the last byte. Nodes take no writes then, say so, and renew leases; and go on
// by themselves once there is room, with all that was acknowledged.
func TestAllDisksFull(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	const size, reserve = 96 << 20, 12 << 20
	var disks []string
	f := newFieldOn(t, 3, func(dir string) {
		run(t, "mkdir -p %s && mount -t tmpfs -o size=%d,mode=0700 tmpfs %[1]s", dir, size)
		t.Cleanup(func() { run(t, "umount -l %s", dir) })
		disks = append(disks, dir)
	})
	for i := range f.nodes {
		f.metric(i, fmt.Sprintf("keystead_disk_reserve_bytes %v", float64(reserve)))
		f.metric(i, "keystead_disk_low 0")
	}
	h, _ := f.admitted("kept")
	late := f.host("late")
	if err := f.enrol("late", late.ek); err != nil {
		t.Fatal(err)
	}

	// Clients fill the disks.
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cl := f.client("")
	value, puts := bytes.Repeat([]byte("0123456789abcdef"), 16<<10), 0
	var err error
	for err == nil && ctx.Err() == nil {
		if _, err = cl.Put(ctx, fmt.Sprintf("kv/%d", puts), value); err == nil {
			puts++
		}
	}
	demand(t, "a write to full disks", err, keystead.ReasonDiskFull)
	t.Logf("%d values of %d bytes were written, then: %v", puts, len(value), err)
	if puts < 50 {
		t.Errorf("only %d values were written", puts)
	}
	full := 0
	for i := range f.nodes {
		status, text, _ := f.asked(i, "/readyz")
		if status == http.StatusServiceUnavailable && strings.HasPrefix(text, "denied: disk-full: disk") {
			full++
		}
	}
	if full < 2 {
		t.Errorf("%d of 3 nodes say that they are full", full)
	}
	said, err := os.ReadFile(f.nodes[0].log())
	warned, ended := strings.Index(string(said), "room is running out"), strings.Index(string(said), "state=disk-full")
	if err != nil || warned < 0 || ended >= 0 && ended < warned {
		t.Errorf("no warning came before: %v", err)
	}

	// Somebody else takes what is left, on all of them, to the last byte.
	for _, dir := range disks {
		run(t, "head -c %d /dev/zero >%s/filler 2>/dev/null; test $(df --output=avail -k %[2]s | tail -1) -lt %d", size, dir, reserve>>10)
	}
	for i := range f.nodes {
		f.metric(i, `keystead_closed{state="disk-full"} 1`)
		f.metric(i, "keystead_disk_low 1")
	}
	for _, dir := range disks {
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			info, err := os.Stat(filepath.Join(dir, "reserve"))
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() < reserve {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: nothing of the reserve was given up", dir)
			}
		}
	}
	for began, n := time.Now(), 0; n < 3; n++ {
		if _, err := h.renew(); err != nil {
			t.Fatalf("renewal %d after %v on full disks: %v", n, time.Since(began), err)
		}
	}
	_, err = late.admit()
	demand(t, "an admission on full disks", err, keystead.ReasonDiskFull)
	_, err = cl.PutObject(ctx, value)
	demand(t, "an object on full disks", err, keystead.ReasonDiskFull)
	r, err := cl.Read(ctx, true, "kv/0")
	if err != nil || !bytes.Equal(r.GetValues()[0].GetValue(), value) {
		t.Errorf("a read of full disks: %v", err)
	}

	// There is room again, and nobody does anything else.
	for _, dir := range disks {
		run(t, "rm %s/filler && mount -o remount,size=%d %[1]s", dir, 4*size)
	}
	for i := range f.nodes {
		f.metric(i, `keystead_closed{state="disk-full"} 0`)
		f.metric(i, fmt.Sprintf("keystead_disk_reserve_bytes %v", float64(4*reserve)))
		f.metric(i, "keystead_disk_low 0")
	}
	if _, err := cl.Put(ctx, "kv/again", value); err != nil {
		t.Errorf("a write once there is room: %v", err)
	}
	if _, err := late.admit(); err != nil {
		t.Errorf("an admission once there is room: %v", err)
	}
	for i := range puts {
		r, err := cl.Read(ctx, true, fmt.Sprintf("kv/%d", i))
		if err != nil || !bytes.Equal(r.GetValues()[0].GetValue(), value) {
			t.Fatalf("kv/%d was acknowledged, and is lost: %v", i, err)
		}
	}
	if _, err := cl.Audit(ctx, nil); err != nil {
		t.Error(err)
	}
	for _, p := range f.nodes {
		select {
		case err := <-p.ended:
			t.Errorf("%s ended with %v", p.place.Name, err)
			p.ended <- err
		default:
		}
	}
}
