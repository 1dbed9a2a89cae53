package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/segment"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// The store's format number is append-only:
//
//	1  log and state in one pebble store
//	2  the log and the state in one each
//	3  the log in segments (docs/spec/log.md), the state as in 2
//
// A state travels between nodes and says 2, which is its own format still.
const stateFormat = 2

// Keys of the state, which all members have alike.
const prefixState = 's' // s KEY -> the state machine's

// All numbers in keys and records are big endian.
var (
	keyFormat     = []byte("r/format")     // stateFormat (8)
	keyApplied    = []byte("r/applied")    // index, term of the last applied entry (16)
	keyMembership = []byte("r/membership") // encodedMembership
	keyChain      = []byte("r/chain")      // Chain; not there in a state that an earlier build made
	prefixOrigin  = []byte("r/o/")         // r/o/ID -> sequence number of its last applied batch (8)
)

// StoreOptions say where a store is and how much of it to keep in memory.
type StoreOptions struct {
	FS      vfs.FS
	Dir     string
	Machine StateMachine

	// Explain refuses a change of membership that the state does not explain: the group's own
	// record of who is a member is signed by nobody. Nil takes every change.
	Explain func(state View, before *Membership, c *Change) error

	RetainBytes   uint64        // log kept in memory, for members that lag a little; 32 MiB if 0
	MaxLogBytes   uint64        // log kept on disk, for those that lag more, and until KeepFrom lets it go; 8 GiB if 0
	MemTableBytes uint64        // of the state; 64 MiB if 0
	Cache         *pebble.Cache // 8 MiB if nil
	Logf          func(string)  // what the storage engine reports, a line each; nil drops it

	// LogCut is told of entries that were let go only because the log exceeded
	// MaxLogBytes. A write waits for it to return. Nil if nobody is to know.
	LogCut func(from, to uint64)

	// Positioned is told of each position of a [Portable] machine that took effect, with
	// the state as it stands there. The Apply at hand waits for it to return. Nil: nobody
	// reads it, and nothing becomes stable.
	Positioned func(*Held)

	// Approve is asked before anything of a portable snapshot is taken in. Nil: whatever
	// is in itself sound is.
	Approve func(ctx context.Context, header StateHeader, proof []byte) error

	// TakeFiles is asked whether a portable state may be taken in as the files of a store,
	// which nobody signs. Nil: never.
	TakeFiles func() bool

	// Wanted is told that a member lags so far that it needs a snapshot, and that there
	// is none to send. It must not block; nil if nobody is to know.
	Wanted func()

	// CutWithMemory lets go on disk of what is let go in memory, as if KeepFrom were called
	// each time: who lags more than RetainBytes needs a snapshot.
	CutWithMemory bool
}

// A Store is a node's durable memory: the raft log in segments, synced, with what is
// the node's own, and the state, which has no write-ahead log of its own and is
// rebuilt from the raft log after a crash. Append and Apply may run at the same time, each on
// one goroutine.
type Store struct {
	opts StoreOptions

	lock     io.Closer
	segments *segment.Log
	node     nodeRecord // as last written
	log      raftLog
	cache    logCache

	dbMu sync.RWMutex // held for writing while a snapshot replaces db
	db   *pebble.DB   // the state

	hard *pb.HardState

	applyMu sync.Mutex // one of: apply, checkpoint, install
	flushes flushes
	mu      sync.Mutex // guards what follows
	applied entryID
	members *Membership
	origins map[uint64]uint64 // sequence number of the last batch applied, by origin
	chain   Chain
	links   links

	held      []*Held     // states at positions, the oldest first
	offered   *Held       // see Offer
	stable    uint64      // the last position that is stable
	positions atomic.Bool // are in use, and say how much of the log is kept

	receiving sync.Mutex         // a snapshot
	received  map[entryID]string // snapshots received and not yet installed
	batch     applyBuffers

	broken      atomic.Pointer[error] // why nothing is written any more; see guard
	checkpoints int                   // made since the store was opened, which names them
}

type entryID struct{ index, term uint64 }

// OpenStore opens the store in the directory, or an empty one.
func OpenStore(opts StoreOptions) (_ *Store, err error) {
	if opts.RetainBytes == 0 {
		opts.RetainBytes = 32 << 20
	}
	if opts.MaxLogBytes == 0 {
		opts.MaxLogBytes = 8 << 30
	}
	if opts.MemTableBytes == 0 {
		opts.MemTableBytes = 64 << 20
	}
	if err := makeDir(opts.FS, opts.Dir); err != nil {
		return nil, err
	}
	lock, err := opts.FS.Lock(opts.FS.PathJoin(opts.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("another process uses %s: %w", opts.Dir, err)
	}
	s := &Store{opts: opts, lock: lock, received: map[entryID]string{}}
	s.flushes.failed = make(chan error, 1)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.openLog(); err != nil {
		return nil, err
	}
	if err := s.openState(); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, s.removeStale()
}

// makeDir makes a directory that a crash does not take away again.
func makeDir(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for parent := fs.PathDir(dir); ; dir, parent = parent, fs.PathDir(parent) {
		if err := syncDir(fs, parent); err != nil || parent == dir || parent == "." {
			return err
		}
	}
}

// openState opens the state that the log names, or begins an empty one.
func (s *Store) openState() (err error) {
	if s.node.state != "" {
		s.db, err = s.openDB(s.node.state, s.stateOptions())
		return err
	}
	db, dir, err := s.newState(&Membership{conf: &pb.ConfState{}}, entryID{}, Chain{})
	if err != nil {
		return err
	}
	s.db = db
	return s.name(dir, 0, &pb.HardState{}, &entryID{})
}

// nextDir returns the name of a directory that was not used before.
func (s *Store) nextDir() (string, error) {
	names, err := s.opts.FS.List(s.opts.Dir)
	if err != nil {
		return "", err
	}
	last := 0
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(name, "state-%d", &n); err == nil {
			last = max(last, n)
		}
	}
	return fmt.Sprintf("state-%06d", last+1), nil
}

// removeStale removes what crashes left behind: half-received snapshots,
// checkpoints half sent, and the state before the last snapshot.
func (s *Store) removeStale() error {
	names, err := s.opts.FS.List(s.opts.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		stale := strings.HasPrefix(name, "state-") && name != s.node.state || strings.HasPrefix(name, "checkpoint-")
		if stale {
			if err := s.opts.FS.RemoveAll(s.path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) path(name string) string { return s.opts.FS.PathJoin(s.opts.Dir, name) }

// started counts a start of the node, so that no sequence number is used twice.
func (s *Store) started() error {
	n := s.node
	n.start++
	return s.setNode(n, segment.Note{}, nil)
}

// setNode writes the node's own record, and with it a hard state if there is one.
func (s *Store) setNode(n nodeRecord, note segment.Note, hard *pb.HardState) error {
	if !n.reset {
		s.log.mu.Lock()
		n.first = s.log.truncated
		s.log.mu.Unlock()
	}
	err := s.write(note, true, func(b []byte) []byte {
		if b = n.append(b); hard != nil {
			b = appendHard(b, hard)
		}
		return b
	})
	if err != nil {
		return err
	}
	n.reset = false
	s.node = n
	return nil
}

// ID returns the raft id of the node whose store this is; 0 for an empty store.
func (s *Store) ID() uint64 { return s.node.id }

// Applied returns the index of the last entry applied.
func (s *Store) Applied() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied.index
}

// Membership returns the membership as of the applied index.
func (s *Store) Membership() *Membership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members
}

// View calls read with the state as it stands. A snapshot does not replace it
// before read returns.
func (s *Store) View(read func(View) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "store"})
	}
	return read(View{s.db})
}

// Close closes the store. What was acknowledged is on disk already.
func (s *Store) Close() error {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	s.releaseAll()
	var errs []error
	switch db := s.db; {
	case db == nil:
	case s.broken.Load() != nil: // it may never return, and its error is known
		go func() { _ = s.guard(db.Close) }()
	default:
		errs = append(errs, s.guard(db.Close))
	}
	s.db = nil
	if s.segments != nil {
		errs = append(errs, s.segments.Close())
		s.segments = nil
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// InitialState is raft's view of the store at start.
func (s *Store) InitialState() (*pb.HardState, *pb.ConfState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hard, s.members.conf, nil
}

// Snapshot describes the snapshot that [Store.Carry] would return now.
func (s *Store) Snapshot() (*pb.Snapshot, error) {
	files, err := s.travelsAsFiles()
	if err != nil {
		return nil, err
	}
	if !files {
		if h := s.carriable(); h != nil {
			return snapshotOf(h.id, h.members), nil
		}
		if s.opts.Wanted != nil {
			s.opts.Wanted()
		}
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied.index == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return snapshotOf(s.applied, s.members), nil
}

// travelsAsFiles reports whether the state has no positions.
func (s *Store) travelsAsFiles() (files bool, err error) {
	p, ok := s.opts.Machine.(Portable)
	if !ok {
		return true, nil
	}
	err = s.View(func(v View) error {
		at, err := p.Positions(v)
		files = !at.InUse
		return err
	})
	return files, err
}

func snapshotOf(id entryID, m *Membership) *pb.Snapshot {
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: &id.index, Term: &id.term, ConfState: m.conf}}
}
