package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
)

// maxChunk bounds one message of an object's content, in bytes.
const maxChunk = 1 << 20

// Objects are bytes that go by their digest.
type Objects interface {
	// PutObject keeps what the reader gives; from is as Source has it.
	PutObject(ctx context.Context, from netip.Addr, content io.Reader) (keystead.Digest, error)
	// OpenObject opens an object for whoever asks; the caller closes it.
	OpenObject(ctx context.Context, d keystead.Digest) (io.ReadCloser, error)
}

// PutObject implements the API's HostService.
func (s *objectsAPI) PutObject(ctx context.Context, stream *connect.ClientStream[apiv1.PutObjectRequest]) (*connect.Response[apiv1.PutObjectResponse], error) {
	d, err := s.objects.PutObject(ctx, Source(stream.Peer().Addr), &chunks{stream: stream})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apiv1.PutObjectResponse{Digest: d.String()}), nil
}

// chunks reads the content of a stream.
type chunks struct {
	stream *connect.ClientStream[apiv1.PutObjectRequest]
	rest   []byte
}

func (c *chunks) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		if !c.stream.Receive() {
			if err := c.stream.Err(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		if c.rest = c.stream.Msg().GetChunk(); len(c.rest) > maxChunk {
			return 0, malformed("chunk", "is %d bytes long, at most %d are accepted", len(c.rest), maxChunk)
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// GetObject implements the API's HostService.
func (s *objectsAPI) GetObject(ctx context.Context, r *apiv1.GetObjectRequest, send func(*apiv1.GetObjectResponse) error) (err error) {
	d, err := keystead.ParseDigest(r.GetDigest())
	if err != nil {
		return malformed("digest", "%v", err)
	}
	content, err := s.objects.OpenObject(ctx, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	if err := part.Spend(ctx, chunk); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(content, buf)
		if n > 0 {
			if err := send(&apiv1.GetObjectResponse{Chunk: buf[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("object %s: %w", d, err)
		}
	}
}

// objectsAPI answers what the API's HostService says of objects.
type objectsAPI struct{ objects Objects }

// ObjectProcedures are those of objects.
func ObjectProcedures(by Objects) []part.Procedure {
	s := &objectsAPI{by}
	return []part.Procedure{
		part.Upload(api.HostServicePutObjectProcedure, part.Limits{In: maxChunk + small, Values: 8, Out: small, Time: objectTime, Rate: 50, Flight: 16}, s.PutObject),
		part.Stream(api.HostServiceGetObjectProcedure, part.Limits{In: small, Values: 8, Out: chunk + small, Flight: 64}, s.GetObject),
	}
}
