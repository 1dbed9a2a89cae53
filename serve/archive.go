package serve

import (
	"context"
	"slices"
	"time"

	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
)

// Archive gives archived evidence to who may read it.
type Archive interface {
	// ReadArchive returns the record of the admission at a leaf, in answer to a reading
	// that members signed.
	ReadArchive(ctx context.Context, leaf uint64, reading []byte) ([]byte, error)
	// PlanTerms judges hosts by other terms, a page at a time, for such a reading.
	PlanTerms(ctx context.Context, r *apiv1.PlanTermsRequest) (*apiv1.PlanTermsResponse, error)
}

// ReadArchive implements the API's HostService.
func (s *archiveAPI) ReadArchive(ctx context.Context, r *apiv1.ReadArchiveRequest, send func(*apiv1.ReadArchiveResponse) error) error {
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	record, err := s.archive.ReadArchive(bounded, r.GetLeaf(), r.GetReading())
	cancel()
	if err != nil {
		return err
	}
	for part := range slices.Chunk(record, chunk) {
		if err := send(&apiv1.ReadArchiveResponse{Chunk: part}); err != nil {
			return err
		}
	}
	return nil
}

// PlanTerms implements the API's HostService.
func (s *archiveAPI) PlanTerms(ctx context.Context, r *apiv1.PlanTermsRequest) (*apiv1.PlanTermsResponse, error) {
	return s.archive.PlanTerms(ctx, r)
}

// archiveAPI answers what the API's HostService says of archived evidence.
type archiveAPI struct {
	archive Archive
	opts    *Options
}

// ArchiveProcedures are those of the archive.
func ArchiveProcedures(by Archive, opts *Options) []part.Procedure {
	s := &archiveAPI{by, opts}
	return []part.Procedure{
		part.Stream(api.HostServiceReadArchiveProcedure, part.Limits{In: usual, Values: 8, Out: 1 << 40, Rate: 10, Flight: 2, Shown: true}, s.ReadArchive),
		part.Unary(api.HostServicePlanTermsProcedure, part.Limits{In: transaction, Values: 8, Out: answers, Time: 30 * time.Second, Rate: 10, Flight: 2, Shown: true}, s.PlanTerms),
	}
}
