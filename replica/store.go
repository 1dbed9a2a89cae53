package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
	"github.com/keystead/keystead"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// The store's format number is append-only:
//
//	1  keys and records as below
const storeFormat = 1

// Keys of the store. All numbers in keys and records are big endian.
const (
	prefixReplica = 'r'
	prefixLog     = 'l' // l INDEX -> crc32c (4) of key and rest, term (8), type (1), data
	prefixState   = 's' // s KEY -> the state machine's
)

var (
	keyFormat     = []byte("r/format")     // storeFormat (8)
	keyIdentity   = []byte("r/identity")   // raft id (8)
	keyStart      = []byte("r/start")      // how often a node started on this store (8)
	keyHard       = []byte("r/hard")       // raftpb.HardState
	keyTruncated  = []byte("r/truncated")  // index, term of the last entry before the log (16)
	keyApplied    = []byte("r/applied")    // index, term of the last applied entry (16)
	keyMembership = []byte("r/membership") // encodedMembership
	prefixOrigin  = []byte("r/o/")         // r/o/ID -> sequence number of its last applied batch (8)
)

// StoreOptions say where a store is and how much of it to keep in memory.
type StoreOptions struct {
	FS      vfs.FS
	Dir     string
	Machine StateMachine

	RetainBytes   uint64        // log kept, on disk and in memory, for members that lag; 32 MiB if 0
	MemTableBytes uint64        // 64 MiB if 0
	Cache         *pebble.Cache // 8 MiB if nil
	Logf          func(string)  // what the storage engine reports, a line each; nil drops it
}

// A Store is a node's durable memory: the raft log, synced, and the state, which
// is rebuilt from the log after a crash. Append and Apply may run at the same
// time, each on one goroutine.
type Store struct {
	opts   StoreOptions
	marker *atomicfs.Marker // names the directory in use

	witnessFile vfs.File
	lock        io.Closer
	log         logTail

	dbMu sync.RWMutex // held for writing while a snapshot replaces db
	db   *pebble.DB
	dir  string

	id, start uint64
	hard      *pb.HardState
	unsynced  bool // of the last append

	applyMu sync.Mutex // one of: apply, checkpoint, install
	mu      sync.Mutex // guards what follows
	applied entryID
	members *Membership
	origins map[uint64]uint64 // sequence number of the last batch applied, by origin

	received map[entryID]string // snapshots received and not yet installed
	batch    applyBuffers

	broken      atomic.Bool // see guard
	checkpoints int         // made since the store was opened, which names them
}

type entryID struct{ index, term uint64 }

const markerName = "store"

// OpenStore opens the store in the directory, or an empty one.
func OpenStore(opts StoreOptions) (_ *Store, err error) {
	if opts.RetainBytes == 0 {
		opts.RetainBytes = 32 << 20
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
	marker, active, err := atomicfs.LocateMarker(opts.FS, opts.Dir, markerName)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Store{opts: opts, lock: lock, marker: marker, received: map[entryID]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if active == "" {
		if active, err = s.nextDir(); err != nil {
			return nil, err
		}
		if err := s.create(active); err != nil {
			return nil, err
		}
	}
	if s.db, err = s.openDB(active); err != nil {
		return nil, err
	}
	s.dir = active
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.hearWitness(); err != nil {
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

// create makes an empty store in the directory and names it as the one in use.
func (s *Store) create(dir string) error {
	db, err := s.openDB(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Set(keyFormat, be64(storeFormat), pebble.Sync), db.Close()); err != nil {
		return err
	}
	return s.marker.Move(dir)
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
		stale := strings.HasPrefix(name, "state-") && name != s.dir || strings.HasPrefix(name, "checkpoint-")
		if stale {
			if err := s.opts.FS.RemoveAll(s.path(name)); err != nil {
				return err
			}
		}
	}
	return s.marker.RemoveObsolete()
}

func (s *Store) path(name string) string { return s.opts.FS.PathJoin(s.opts.Dir, name) }

func (s *Store) openDB(dir string) (*pebble.DB, error) {
	var db *pebble.DB
	err := s.guard(func() (err error) {
		db, err = pebble.Open(s.path(dir), s.pebbleOptions())
		return err
	})
	return db, s.corrupt(dir, err)
}

// pebbleOptions are for a log that is written once and soon deleted, and a state
// that is written in batches: few flushes, and corruption told from a torn tail.
func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          s.opts.FS,
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		MemTableSize:                s.opts.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		Cache:                       s.opts.Cache,
		Logger:                      engineLogger{s.opts.Logf},
		// Reads that meet corruption return it; pebble's default would end the process.
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	}
	return o
}

// engineLogger hands on what pebble reports, and turns its fatal errors, after
// which it must not be used, into a panic that the store recovers.
type engineLogger struct{ logf func(string) }

func (l engineLogger) Infof(string, ...any) {}
func (l engineLogger) Errorf(format string, args ...any) {
	if l.logf != nil {
		l.logf(fmt.Sprintf(format, args...))
	}
}
func (l engineLogger) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			panic(fmt.Errorf("%w (%s)", err, format))
		}
	}
	panic(fmt.Errorf(format, args...))
}

// guard runs a write and returns a fatal error of the engine as an error. The
// engine is not touched again: its locks may be held for ever, and what the disk
// holds is unknown until the store is opened anew.
func (s *Store) guard(write func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(error)
			if _, bug := p.(runtime.Error); !ok || bug {
				panic(p)
			}
			s.broken.Store(true)
			err = fmt.Errorf("%s: a write failed, and what it left is unknown until the next start: %w", s.opts.Dir, e)
		}
	}()
	return write()
}

// load reads everything but the state machine's part into memory, and checks it.
func (s *Store) load() error {
	format, err := s.number(keyFormat)
	if err != nil {
		return err
	}
	if format != storeFormat {
		return s.bad(keyFormat, fmt.Sprintf("format %d", storeFormat), fmt.Sprintf("format %d", format))
	}
	if s.id, err = s.number(keyIdentity); err != nil {
		return err
	}
	if s.start, err = s.number(keyStart); err != nil {
		return err
	}
	hard, _, err := get(s.db, keyHard)
	if err != nil {
		return s.corrupt(string(keyHard), err)
	}
	s.hard = &pb.HardState{}
	if err := proto.Unmarshal(hard, s.hard); err != nil {
		return s.bad(keyHard, "a record that parses", err.Error())
	}
	if err := s.loadState(); err != nil {
		return err
	}
	if err := s.loadLog(); err != nil {
		return err
	}
	if s.hard.GetCommit() < s.applied.index { // its last write needed no sync
		s.hard.Commit = &s.applied.index
	}
	return s.opts.Machine.Open(View{s.db}, s.applied.index)
}

// loadState reads what belongs to the applied index.
func (s *Store) loadState() error {
	applied, err := s.pair(keyApplied)
	if err != nil {
		return err
	}
	members := &Membership{conf: &pb.ConfState{}}
	if b, ok, err := get(s.db, keyMembership); err != nil {
		return s.corrupt(string(keyMembership), err)
	} else if ok {
		if members, err = decodeMembership(b); err != nil {
			return s.bad(keyMembership, "a record that parses", err.Error())
		}
	}
	origins := map[uint64]uint64{}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefixOrigin, UpperBound: []byte("r/o0")})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if len(it.Key()) != len(prefixOrigin)+8 || len(it.Value()) != 8 {
			return errors.Join(s.bad(it.Key(), "8 bytes", fmt.Sprintf("%d bytes", len(it.Value()))), it.Close())
		}
		origins[binary.BigEndian.Uint64(it.Key()[len(prefixOrigin):])] = binary.BigEndian.Uint64(it.Value())
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return s.corrupt(string(prefixOrigin), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.members, s.origins = applied, members, origins
	return nil
}

func (s *Store) number(key []byte) (uint64, error) {
	b, ok, err := get(s.db, key)
	if err != nil {
		return 0, s.corrupt(string(key), err)
	}
	if ok && len(b) != 8 {
		return 0, s.bad(key, "8 bytes", fmt.Sprintf("%d bytes", len(b)))
	}
	if !ok {
		return 0, nil
	}
	return binary.BigEndian.Uint64(b), nil
}

func (s *Store) pair(key []byte) (entryID, error) {
	b, ok, err := get(s.db, key)
	if err != nil {
		return entryID{}, s.corrupt(string(key), err)
	}
	if !ok {
		return entryID{}, nil
	}
	if len(b) != 16 {
		return entryID{}, s.bad(key, "16 bytes", fmt.Sprintf("%d bytes", len(b)))
	}
	return entryID{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (e entryID) bytes() []byte { return binary.BigEndian.AppendUint64(be64(e.index), e.term) }

// Advice for whoever runs a node whose store cannot be read: its peers have all
// that it acknowledged.
const corruptAdvice = "the other members hold everything acknowledged: move the directory away and start the node again, it rejoins as a learner; if a majority is so, keep the directories and recover"

func (s *Store) bad(key []byte, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Want: want + "; " + corruptAdvice, Got: got,
		Where: fmt.Sprintf("%s key %q", s.opts.Dir, key)})
}

// corrupt says where the storage engine met bytes that are not what was written;
// other errors, such as a full disk, pass.
func (s *Store) corrupt(where string, err error) error {
	if err == nil || !pebble.IsCorruptionError(err) {
		return err
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Want: corruptAdvice, Got: err.Error(),
		Where: fmt.Sprintf("%s key %q", s.opts.Dir, where)})
}

// Bootstrap makes this empty store the founder id of a new group of voters. Every
// founder must be given the same members, whose ids are 1, 2, …, in this order.
func (s *Store) Bootstrap(id uint64, members []Member) error {
	if s.id != 0 || s.applied.index != 0 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonChangeRefused, Want: "an empty store", Got: fmt.Sprintf("the store of id %d", s.id), Where: s.opts.Dir})
	}
	m := &Membership{conf: &pb.ConfState{}}
	for i, founder := range members {
		founder.ID, founder.Voter = uint64(i+1), true
		m.Members = append(m.Members, founder)
		m.conf.Voters = append(m.conf.Voters, founder.ID)
		m.LastID = founder.ID
	}
	if _, ok := m.ByID(id); !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Want: fmt.Sprintf("1 to %d", len(members)), Got: fmt.Sprint(id), Where: "founder id"})
	}
	if err := s.begin(s.db, id, m, entryID{1, 1}, &pb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}); err != nil {
		return err
	}
	return errors.Join(s.load(), s.bearWitness())
}

// Rejoin begins an empty state, that of a member who has nothing yet. What the
// store held before is removed: call it only once a quorum has given out the id.
func (s *Store) Rejoin(id uint64) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	dir, err := s.nextDir()
	if err != nil {
		return err
	}
	db, err := s.openDB(dir)
	if err != nil {
		return err
	}
	err = db.Set(keyFormat, be64(storeFormat), nil)
	if err == nil {
		err = s.begin(db, id, &Membership{conf: &pb.ConfState{}}, entryID{}, &pb.HardState{})
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return s.swap(dir)
}

// begin writes the first state of a store, on which a log can grow.
func (s *Store) begin(db *pebble.DB, id uint64, m *Membership, first entryID, hard *pb.HardState) error {
	b := db.NewBatch()
	hs, err := proto.Marshal(hard)
	if err != nil {
		return err
	}
	for _, kv := range [][2][]byte{{keyIdentity, be64(id)}, {keyMembership, m.encode()}, {keyApplied, first.bytes()}, {keyTruncated, first.bytes()}, {keyHard, hs}} {
		if err := b.Set(kv[0], kv[1], nil); err != nil {
			return err
		}
	}
	return s.guard(func() error { return b.Commit(pebble.Sync) })
}

// started counts a start of the node, so that no sequence number is used twice.
func (s *Store) started() error {
	s.start++
	return s.guard(func() error { return s.db.Set(keyStart, be64(s.start), pebble.Sync) })
}

// ID returns the raft id of the node whose store this is; 0 for an empty store.
func (s *Store) ID() uint64 { return s.id }

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
	var errs []error
	if s.db != nil && !s.broken.Load() {
		errs = append(errs, s.guard(s.db.Close))
	}
	s.db = nil
	if s.witnessFile != nil {
		errs = append(errs, s.witnessFile.Close())
		s.witnessFile = nil
	}
	return errors.Join(append(errs, s.marker.Close(), s.lock.Close())...)
}

// InitialState is raft's view of the store at start.
func (s *Store) InitialState() (*pb.HardState, *pb.ConfState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hard, s.members.conf, nil
}

// Snapshot describes the snapshot that [Store.Checkpoint] would make now.
func (s *Store) Snapshot() (*pb.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied.index == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return snapshotOf(s.applied, s.members), nil
}

func snapshotOf(id entryID, m *Membership) *pb.Snapshot {
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: &id.index, Term: &id.term, ConfState: m.conf}}
}
