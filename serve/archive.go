package serve

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	apiv1 "github.com/keystead/keystead/api/v1"
)

// Archive gives archived evidence to who may read it.
type Archive interface {
	// ReadArchive returns the record of the admission at a leaf, in answer to a reading
	// that members signed.
	ReadArchive(ctx context.Context, leaf uint64, reading []byte) ([]byte, error)
}

// ReadArchive implements the API's HostService.
func (s *server) ReadArchive(ctx context.Context, r *connect.Request[apiv1.ReadArchiveRequest], stream *connect.ServerStream[apiv1.ReadArchiveResponse]) error {
	if s.archive == nil {
		return unimplemented()
	}
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	record, err := s.archive.ReadArchive(bounded, r.Msg.GetLeaf(), r.Msg.GetReading())
	cancel()
	if err != nil {
		return err
	}
	for part := range slices.Chunk(record, chunk) {
		if err := stream.Send(&apiv1.ReadArchiveResponse{Chunk: part}); err != nil {
			return err
		}
	}
	return nil
}
