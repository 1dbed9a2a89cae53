package replica

import (
	"context"
	"io"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A Transport carries messages between members. It may lose, delay, double and
// reorder them; it never alters one, and names its sender truly.
type Transport interface {
	// Send queues messages to the members named in them. It does not block: what
	// finds no room is dropped, and the handler told that the member is unreachable.
	Send(ms []*pb.Message)

	// SendSnapshot sends a snapshot on a stream of its own: the message, whose
	// metadata is the snapshot's, and then what write writes.
	SendSnapshot(ctx context.Context, m *pb.Message, write func(io.Writer) error) error

	// Members says who may connect, and where they are.
	Members(members []Member)

	// Join asks the member at that address, which must show that key, for a fresh
	// id for this node's key.
	Join(ctx context.Context, peer Member, request JoinRequest) (JoinReply, error)

	Close() error
}

// A Handler takes what a Transport receives. Its methods may be called from many
// goroutines at once.
type Handler interface {
	Receive(ms []*pb.Message)
	ReceiveSnapshot(m *pb.Message, r io.Reader) error
	Join(ctx context.Context, key keystead.Digest, request JoinRequest) (JoinReply, error)
	Unreachable(id uint64)
}

// A JoinRequest asks for a fresh id. The key that the id is for is the one that
// the connection showed.
type JoinRequest struct {
	Boot    [16]byte `cbor:"1,keyasint"` // drawn at each start: asking twice gives one id
	Address string   `cbor:"2,keyasint"`

	Gives uint64 `cbor:"3,keyasint,omitempty"` // the id that it has given up
	Asked *Asked `cbor:"4,keyasint,omitempty"` // its word for that
}

// A JoinReply gives the id, and who the others are.
type JoinReply struct {
	ID      uint64   `cbor:"1,keyasint"`
	Members []Member `cbor:"2,keyasint"`

	Gives uint64 `cbor:"3,keyasint,omitempty"` // no id yet: the request must be signed for giving up this one
	Waits bool   `cbor:"4,keyasint,omitempty"` // none: the member waits for an id itself, or for a state
}
