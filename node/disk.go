package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

const (
	reserveFile   = "reserve"
	reserveStages = 4 // in which the reserve is given up
	reserveShare  = 8 // of a file system, at most one in so many bytes is reserve

	diskEvery   = 100 * time.Millisecond // a look at how much room there is
	othersEvery = 2 * time.Second        // a look at how others fare
	othersFor   = 5 * othersEvery        // what one said counts
)

// disk watches the room where the node's directory is. While less is left than the reserve, the
// node takes in nothing that only grows the ledger, and what room there is keeps leases going.
// The reserve is a file, too, so that somebody else who fills the disk does not stop the node:
// it is given up in stages, and taken back before writes are taken again (docs/design/0019).
type disk struct {
	dir    string
	most   uint64 // bytes of the reserve that are configured; 0: none
	closed *closure

	mu   sync.Mutex
	free uint64 // bytes
	held uint64 // bytes of the reserve file
	want uint64 // bytes of it on this file system
	bare bool   // a file system on which no room can be held
	full bool
	low  bool
}

// room is what a look at a file system gives.
func room(dir string) (free, size uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), fs.Blocks * uint64(fs.Bsize), nil
}

// begin finds out what is held from an earlier run, and gives some of it up if the node could not
// start otherwise.
func (d *disk) begin() error {
	info, err := os.Stat(d.path())
	switch {
	case err == nil:
		d.held = uint64(info.Size())
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if d.most == 0 && d.held > 0 {
		d.held = 0
		return os.Remove(d.path())
	}
	return d.look()
}

func (d *disk) path() string { return filepath.Join(d.dir, reserveFile) }

// look compares the room there is with the reserve, and acts.
func (d *disk) look() error {
	free, size, err := room(d.dir)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free, d.want = free, min(d.most, size/reserveShare)
	if d.most == 0 {
		return nil
	}
	if d.held > d.want { // the file system, or the configuration, has shrunk
		err = d.hold(d.want)
	}
	if missing := d.want - d.held; err == nil && missing > 0 && !d.bare && d.free >= missing+d.want+d.want/2 {
		if err = d.hold(d.want); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			d.bare, err = true, nil
		}
	}
	switch {
	case d.free < d.want:
		d.full = true
	case d.free >= d.want+d.want/2 && (d.held == d.want || d.bare):
		d.full = false
	}
	for d.full && err == nil && d.free < d.want/reserveStages && d.held > 0 {
		err = d.giveUp()
	}
	d.warn()
	return err
}

// giveUp gives up a stage of the reserve.
func (d *disk) giveUp() error { return d.hold(d.held - min(d.held, max(d.want/reserveStages, 1))) }

// spend gives up a stage for a write that found no room at all: somebody else was faster than
// the look. The write is tried once more then.
func (d *disk) spend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held == 0 {
		return
	}
	d.full = true
	if err := d.giveUp(); err != nil {
		d.closed.log.Warn("the disk's reserve is not as it should be", "because", err)
	}
}

// hold makes the reserve file as large as that.
func (d *disk) hold(bytes uint64) (err error) {
	f, err := os.OpenFile(d.path(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	before := d.held
	if bytes > d.held {
		err = unix.Fallocate(int(f.Fd()), 0, 0, int64(bytes))
	} else if err = f.Truncate(int64(bytes)); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		if bytes > before {
			_ = os.Truncate(d.path(), int64(before)) // what was taken of it
		}
		return fmt.Errorf("reserve of %s: %w", d.dir, err)
	}
	d.held, d.free = bytes, d.free+before-bytes
	d.closed.log.Info("room is held in reserve for what keeps leases", "bytes", bytes, "before", before)
	return nil
}

// warn tells, once each, that room is running out and that there is enough again.
func (d *disk) warn() {
	low := d.free < 2*d.want
	if !d.full && d.low && d.free < 2*d.want+d.want/2 {
		low = true // until there is clearly more
	}
	if low != d.low {
		d.low = low
		if low {
			d.closed.log.Warn("room is running out: this node takes no writes any more once there is less than the reserve", "free", d.free, "reserve", d.want, "directory", d.dir)
		} else {
			d.closed.log.Info("there is room again", "free", d.free, "directory", d.dir)
		}
	}
}

// state is how the disk is now.
func (d *disk) state() (free, held uint64, low, full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.free, d.held, d.low, d.full
}

// short are the other nodes that said lately that their disks are full.
type short struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (s *short) note(node string, full bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[string]time.Time{}
	}
	delete(s.at, node)
	if full {
		s.at[node] = now
	}
}

func (s *short) count(now time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.at {
		if now.Sub(at) < othersFor {
			n++
		}
	}
	return n
}

// diskLoop watches the disk, and asks the others how theirs are: a write that this node has room
// for takes the last room of those that have none.
func (n *doors) diskLoop() {
	every := time.NewTicker(diskEvery)
	defer every.Stop()
	told, asked := "", time.Now()
	for {
		said := ""
		if err := n.disk.look(); err != nil {
			said = err.Error()
		}
		if said != "" && said != told {
			n.log.Warn("the disk's reserve is not as it should be", "because", said)
		}
		told = said
		n.closed.set(keystead.ReasonDiskFull, n.noRoom())
		if n.disk.most > 0 && n.isUp() && time.Since(asked) > othersEvery {
			asked = time.Now()
			n.askRoom()
		}
		select {
		case <-every.C:
		case <-n.running.Done():
			return
		}
	}
}

// askRoom asks the other nodes whether their disks are full.
func (n *doors) askRoom() {
	for _, p := range n.peers.others() {
		n.background(func() {
			ctx, cancel := context.WithTimeout(n.running, othersEvery)
			defer cancel()
			if r, err := p.domain.Status(ctx, connect.NewRequest(&apiv1.StatusRequest{})); err == nil {
				n.short.note(p.Name, r.Msg.GetDiskFull(), time.Now())
			}
		})
	}
}

// noRoom says that this node's disk is full, or so many others' that the rest is no majority.
func (n *doors) noRoom() *keystead.Finding {
	free, _, _, full := n.disk.state()
	if full {
		return &keystead.Finding{Where: "disk of node " + n.name,
			Want: fmt.Sprintf("%d MiB free where %s is, beside the reserve. Make room, or make the file system larger: the node goes on by itself", (n.disk.want+n.disk.want/2)>>20, n.cfg.Dir),
			Got:  fmt.Sprintf("%d MiB", free>>20)}
	}
	others := n.short.count(time.Now())
	if roster := n.roster(); others > 0 && len(roster.Nodes)-others < roster.Majority() {
		return &keystead.Finding{Where: "disks of other nodes", Want: fmt.Sprintf("room on those of %d of %d nodes (keystead node status --node NAME)", roster.Majority(), len(roster.Nodes)), Got: fmt.Sprintf("%d that say that theirs are full", others)}
	}
	return nil
}
