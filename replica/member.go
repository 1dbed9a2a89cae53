package replica

import (
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"github.com/keystead/keystead"
	"go.etcd.io/raft/v3/confchange"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// A Member is a node of the group. Its raft id is given out once and never again:
// a node that comes back without its memory is the same key under a new id.
type Member struct {
	ID      uint64          `cbor:"1,keyasint"`
	Key     keystead.Digest `cbor:"2,keyasint"` // of the node key's SubjectPublicKeyInfo, which connections pin
	Address string          `cbor:"3,keyasint"` // host:port
	Boot    [16]byte        `cbor:"4,keyasint"` // names the start of the node that the id was given to
	Voter   bool            `cbor:"5,keyasint"` // to be promoted once it has caught up

	// Name is what the state machine knows the member by; empty in groups whose machine
	// explains no changes.
	Name string `cbor:"6,keyasint,omitempty"`
}

// A Membership is who is in the group, as of an applied index.
type Membership struct {
	Members []Member // by id
	LastID  uint64   // the highest id ever given out
	conf    *pb.ConfState
}

// Voters returns the ids whose majority decides. During a joint change a majority
// of each of two sets does; these are the incoming ones.
func (m *Membership) Voters() []uint64 { return slices.Clone(m.conf.GetVoters()) }

// Learners returns the ids that follow without a vote.
func (m *Membership) Learners() []uint64 { return slices.Clone(m.conf.GetLearners()) }

// Joint reports whether a change is under way that two majorities decide on.
func (m *Membership) Joint() bool { return len(m.conf.GetVotersOutgoing()) > 0 }

// ByID returns the member with that id.
func (m *Membership) ByID(id uint64) (Member, bool) {
	i, ok := slices.BinarySearchFunc(m.Members, id, func(m Member, id uint64) int { return int(m.ID) - int(id) })
	if !ok {
		return Member{}, false
	}
	return m.Members[i], true
}

// ByKey returns the member with that key.
func (m *Membership) ByKey(key keystead.Digest) (Member, bool) {
	i := slices.IndexFunc(m.Members, func(m Member) bool { return m.Key == key })
	if i < 0 {
		return Member{}, false
	}
	return m.Members[i], true
}

// left reports whether the id was a member once and is none now.
func (m *Membership) left(id uint64) bool {
	_, ok := m.ByID(id)
	return !ok && id <= m.LastID
}

// A Change is what is to become of a membership, in one step and by joint
// consensus. Ids of added members are given out when it is applied.
type Change struct {
	Add     []Member `cbor:"1,keyasint,omitempty"` // as learners; ID is ignored
	Promote []uint64 `cbor:"2,keyasint,omitempty"` // learners to voters
	Remove  []uint64 `cbor:"3,keyasint,omitempty"`

	Vouchers [][]byte `cbor:"4,keyasint,omitempty"` // for each of Add, what its state machine wants to see
	Asked    *Asked   `cbor:"5,keyasint,omitempty"` // of a member that is added under a fresh id
}

const (
	maxMembers = 64
	maxAddress = 256
	maxMember  = 256     // bytes of a name
	maxChange  = 1 << 16 // bytes of an encoded change
)

// Admit answers a member that has lost its memory and asks for a fresh id. Unless
// this start of it has one already, it takes the change returned: its old id is
// removed, and it is a learner under a new one.
func (m *Membership) Admit(key keystead.Digest, request JoinRequest) (JoinReply, *Change, error) {
	old, ok := m.ByKey(key)
	if !ok {
		return JoinReply{}, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Got: key.String(), Where: "join",
			Want: fmt.Sprintf("the key of one of %d members", len(m.Members))})
	}
	switch {
	case old.Boot == request.Boot:
		return JoinReply{ID: old.ID, Members: m.Members}, nil, nil
	case request.Asked != nil && request.Gives != old.ID: // it is to sign which one it gives up
		return JoinReply{Gives: old.ID}, nil, nil
	}
	add := Member{Key: key, Address: request.Address, Boot: request.Boot, Voter: old.Voter, Name: old.Name}
	return JoinReply{}, &Change{Remove: []uint64{old.ID}, Add: []Member{add}, Asked: request.Asked}, nil
}

// apply returns the membership after the change, and the change as raft takes it.
// It is deterministic: every node decides alike whether to refuse.
func (m *Membership) apply(c Change) (*Membership, *pb.ConfChangeV2, error) {
	refuse := func(got, where string) (*Membership, *pb.ConfChangeV2, error) {
		return nil, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonChangeRefused, Got: got, Where: where})
	}
	if m.Joint() {
		return refuse("another change is under way", "membership")
	}
	cc := &pb.ConfChangeV2{Transition: pb.ConfChangeTransitionAuto.Enum()}
	next := &Membership{Members: slices.Clone(m.Members), LastID: m.LastID}
	single := func(t pb.ConfChangeType, id uint64) {
		cc.Changes = append(cc.Changes, &pb.ConfChangeSingle{Type: t.Enum(), NodeId: &id})
	}
	for _, id := range c.Remove {
		if _, ok := next.ByID(id); !ok {
			return refuse(fmt.Sprintf("id %d, which is no member's", id), "remove")
		}
		next.Members = slices.DeleteFunc(next.Members, func(m Member) bool { return m.ID == id })
		single(pb.ConfChangeRemoveNode, id)
	}
	for _, add := range c.Add {
		if _, ok := next.ByKey(add.Key); ok {
			return refuse("a key that is a member's already: "+add.Key.String(), "add")
		}
		if len(next.Members) == maxMembers || len(add.Address) > maxAddress || len(add.Name) > maxMember {
			return refuse(fmt.Sprintf("%d members, address of %d bytes, name of %d", len(next.Members), len(add.Address), len(add.Name)), "add")
		}
		next.LastID++
		add.ID = next.LastID
		next.Members = append(next.Members, add)
		single(pb.ConfChangeAddLearnerNode, add.ID)
	}
	for _, id := range c.Promote {
		if !slices.Contains(m.conf.GetLearners(), id) {
			return refuse(fmt.Sprintf("id %d, which is no learner's", id), "promote")
		}
		single(pb.ConfChangeAddNode, id)
	}
	conf, err := confAfter(m.conf, cc)
	if err != nil {
		return refuse(err.Error(), "membership")
	}
	next.conf = conf
	return next, cc, nil
}

// leave returns the membership after the end of a joint change.
func (m *Membership) leave() (*Membership, *pb.ConfChangeV2, error) {
	cc := &pb.ConfChangeV2{}
	conf, err := confAfter(m.conf, cc)
	if err != nil {
		return nil, nil, err
	}
	return &Membership{Members: m.Members, LastID: m.LastID, conf: conf}, cc, nil
}

// confAfter computes what raft will make of cs, so that it can be stored in one
// batch with the applied index, and refused rather than panicked over.
func confAfter(cs *pb.ConfState, cc *pb.ConfChangeV2) (*pb.ConfState, error) {
	chg := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}
	cfg, progress, err := confchange.Restore(chg, cs)
	if err != nil {
		return nil, err
	}
	chg.Tracker.Config, chg.Tracker.Progress = cfg, progress
	if cc.LeaveJoint() {
		cfg, progress, err = chg.LeaveJoint()
	} else if auto, ok := cc.EnterJoint(); ok {
		cfg, progress, err = chg.EnterJoint(auto, cc.Changes...)
	} else {
		cfg, progress, err = chg.Simple(cc.Changes...)
	}
	if err != nil {
		return nil, err
	}
	t := tracker.ProgressTracker{Config: cfg, Progress: progress}
	return t.ConfState(), nil
}

// encodedMembership is the stored form of a Membership.
type encodedMembership struct {
	Members []Member `cbor:"1,keyasint"`
	LastID  uint64   `cbor:"2,keyasint"`
	Conf    []byte   `cbor:"3,keyasint"` // raftpb.ConfState
}

func (m *Membership) encode() []byte {
	conf, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.conf)
	if err != nil {
		panic(err) // a ConfState has no field that cannot be written
	}
	return encode(encodedMembership{m.Members, m.LastID, conf})
}

func decodeMembership(b []byte) (*Membership, error) {
	var e encodedMembership
	if err := decode(b, &e); err != nil {
		return nil, err
	}
	m := &Membership{Members: e.Members, LastID: e.LastID, conf: &pb.ConfState{}}
	return m, proto.Unmarshal(e.Conf, m.conf)
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxArrayElements: 1024, MaxMapPairs: 64, MaxNestedLevels: 8,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func encode(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(err) // our own types, which all have a form
	}
	return b
}

func decode(b []byte, v any) error { return decMode.Unmarshal(b, v) }
