package client

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// Call asks the nodes a procedure of the API by its name, such as
// "/keystead.v1.HostService/Release", and reads what the first of them answers into answer: as
// the methods of a procedure do. Answer has to be of the procedure's type.
func (h *Host) Call(ctx context.Context, procedure string, question, answer proto.Message) error {
	_, err := eachNode(ctx, h, func(ctx context.Context, n *hostNode) (*named, error) {
		to, base := n.transport()
		return nil, callNamed(ctx, to, base, procedure, question, answer)
	})
	return err
}

// Call asks the nodes a procedure of the API by its name, as Host.Call does. One that is asked
// again, because a node did not answer, must come to the same.
func (c *Client) Call(ctx context.Context, procedure string, question, answer proto.Message) error {
	return c.each(ctx, func(ctx context.Context, n *node) error {
		return callNamed(ctx, n.http, n.API, procedure, question, answer)
	})
}

// callNamed asks one server.
func callNamed(ctx context.Context, to connect.HTTPClient, base, procedure string, question, answer proto.Message) error {
	proto.Reset(answer) // of what one that was asked before may have left
	into := connect.WithResponseInitializer(func(_ connect.Spec, message any) error {
		message.(*named).Message = answer
		return nil
	})
	c := connect.NewClient[named, named](to, base+procedure, connect.WithCodec(namedCodec{}), connect.WithReadMaxBytes(maxHostAnswer), into)
	_, err := c.CallUnary(ctx, connect.NewRequest(&named{question}))
	return err
}

// named is a message whose type only the caller knows.
type named struct{ proto.Message }

// namedCodec is the API's protobuf encoding of named messages.
type namedCodec struct{}

// Name implements connect.Codec.
func (namedCodec) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (namedCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(*named)
	if !ok {
		return nil, fmt.Errorf("a %T is no message of Call", message)
	}
	return proto.Marshal(m.Message)
}

// Unmarshal implements connect.Codec.
func (namedCodec) Unmarshal(raw []byte, message any) error {
	m, ok := message.(*named)
	if !ok {
		return fmt.Errorf("a %T is no message of Call", message)
	}
	return proto.Unmarshal(raw, m.Message)
}
