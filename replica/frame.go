package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A connection between members, protocol keystead-replica/1, begins with one byte,
// its kind, and then carries frames:
//
//	1 byte   kind
//	4 bytes  length of the body, big endian
//	body
//
// A stream of messages carries frames whose body is messages, each a length
// (uvarint) and a raftpb.Message. A snapshot's connection carries one frame with the
// message and then the snapshot's stream; a join's carries one frame. Both are
// answered by one frame.
type frameKind byte

const (
	frameMessages frameKind = 1
	frameSnapshot frameKind = 2
	frameJoin     frameKind = 3
	frameAnswer   frameKind = 4
)

const (
	frameHead   = 5
	frameTarget = 1 << 20  // a frame takes no further message beyond this
	maxFrame    = 16 << 20 // a message holds 1 MiB of entries, or one entry
	maxJoin     = 4 << 10
	maxAnswer   = 64 << 10
)

func writeFrame(w io.Writer, kind frameKind, body []byte) error {
	b := append(make([]byte, 0, frameHead+len(body)), byte(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readFrame returns the body of the next frame, which must be of that kind and no
// longer than limit.
func readFrame(r *bufio.Reader, kind frameKind, limit uint32) ([]byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if frameKind(head[0]) != kind {
		return nil, &keystead.FormatError{Format: "replica-stream", Field: "frame kind", Problem: fmt.Sprintf("is %d, not %d", head[0], kind)}
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > limit {
		return nil, &keystead.FormatError{Format: "replica-stream", Offset: 1, Field: "frame length", Problem: fmt.Sprintf("is %d, over %d", n, limit)}
	}
	body := make([]byte, n)
	_, err := io.ReadFull(r, body)
	return body, err
}

// appendMessages appends a frame of as many messages as it takes, and returns the
// others.
func appendMessages(b []byte, ms []*pb.Message) ([]byte, []*pb.Message, error) {
	b = append(b, byte(frameMessages), 0, 0, 0, 0)
	for len(ms) > 0 && len(b) < frameTarget {
		size := proto.Size(ms[0])
		if size > maxFrame-2*frameTarget {
			return b, nil, fmt.Errorf("a message of %d bytes", size)
		}
		b = binary.AppendUvarint(b, uint64(size))
		var err error
		if b, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(b, ms[0]); err != nil {
			return b, nil, err
		}
		ms = ms[1:]
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-frameHead))
	return b, ms, nil
}

// parseMessages reads the body of a frame of messages. They may alias it.
func parseMessages(body []byte) ([]*pb.Message, error) {
	var ms []*pb.Message
	for rest := body; len(rest) > 0; {
		at := int64(len(body) - len(rest))
		n, w := binary.Uvarint(rest)
		if w <= 0 || n > uint64(len(rest)-w) {
			return nil, &keystead.FormatError{Format: "replica-messages", Offset: at, Field: "length", Problem: "exceeds the frame"}
		}
		m := &pb.Message{}
		if err := proto.Unmarshal(rest[w:w+int(n)], m); err != nil {
			return nil, &keystead.FormatError{Format: "replica-messages", Offset: at, Field: "message", Problem: err.Error()}
		}
		if err := checkMessage(m); err != nil {
			return nil, &keystead.FormatError{Format: "replica-messages", Offset: at, Field: "message", Problem: err.Error()}
		}
		ms = append(ms, m)
		rest = rest[w+int(n):]
	}
	return ms, nil
}

// checkMessage refuses what raft takes for granted and panics without.
func checkMessage(m *pb.Message) error {
	if len(m.GetResponses()) > 0 {
		return errors.New("carries local responses")
	}
	if (m.GetType() == pb.MsgReadIndex || m.GetType() == pb.MsgReadIndexResp) && len(m.GetEntries()) != 1 {
		return errors.New("a read without its context")
	}
	if m.GetType() == pb.MsgProp {
		return checkProposal(m.GetEntries())
	}
	if m.GetType() == pb.MsgApp {
		for i, e := range m.GetEntries() {
			if e.GetIndex() != m.GetIndex()+1+uint64(i) {
				return errors.New("entries that do not follow each other")
			}
		}
	}
	return nil
}

func checkProposal(ents []*pb.Entry) error {
	if len(ents) == 0 {
		return errors.New("a proposal without an entry")
	}
	for _, e := range ents {
		switch e.GetType() {
		case pb.EntryNormal:
		case pb.EntryConfChangeV2:
			if err := proto.Unmarshal(e.GetData(), &pb.ConfChangeV2{}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a proposal of type %d", e.GetType())
		}
	}
	return nil
}

// messageSize is about what a message takes in memory.
func messageSize(m *pb.Message) int {
	n := 64
	for _, e := range m.GetEntries() {
		n += int(entrySize(e))
	}
	return n
}

// An answer is a value, or the findings of a refusal, or another error's text.
type answer struct {
	Findings []finding `cbor:"1,keyasint,omitempty"`
	Error    string    `cbor:"2,keyasint,omitempty"`
	Value    []byte    `cbor:"3,keyasint,omitempty"`
}

type finding struct {
	Reason, Want, Got, Where string
}

func writeAnswer(w io.Writer, refused error, value any) error {
	var a answer
	var deny *keystead.DenyError
	switch {
	case errors.As(refused, &deny):
		for _, f := range deny.Findings {
			a.Findings = append(a.Findings, finding{string(f.Reason), f.Want, f.Got, f.Where})
		}
	case refused != nil:
		a.Error = refused.Error()
	default:
		a.Value = encode(value)
	}
	return errors.Join(refused, writeFrame(w, frameAnswer, encode(a)))
}

// readAnswer reads the value into v, or returns the refusal.
func readAnswer(r *bufio.Reader, v any) error {
	body, err := readFrame(r, frameAnswer, maxAnswer)
	if err != nil {
		return err
	}
	var a answer
	if err := decode(body, &a); err != nil {
		return err
	}
	if len(a.Findings) > 0 {
		d := &keystead.DenyError{}
		for _, f := range a.Findings {
			d.Findings = append(d.Findings, keystead.Finding{Reason: keystead.Reason(f.Reason), Want: f.Want, Got: f.Got, Where: f.Where})
		}
		return d
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	if v == nil {
		return nil
	}
	return decode(a.Value, v)
}
