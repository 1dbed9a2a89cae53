package serve

import (
	"path"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
)

// A Class is what a caller is known as before a byte of HTTP is read.
type Class int

// Classes, each with connections, memory and places of its own: what one of them takes is
// not missing to another.
const (
	Stranger Class = iota // shows no key that this node knows
	Client                // shows a key of api.clients
	Host                  // is a machine that members enrolled: by its evidence, or by the TLS key of its last lease
	Node                  // is a node of the domain
	Classes  = iota
)

// String returns the class's name, in the plural.
func (c Class) String() string { return [Classes]string{"strangers", "clients", "hosts", "nodes"}[c] }

// Limits are what calls of one procedure take of a node at most.
type Limits struct {
	From   Class         // the least that may call
	In     int64         // bytes of a message that is sent; 0: evidence, as Evidence says
	Values int           // fields and items of such a message, those of its parts included
	Out    int64         // bytes of an answer, or of one message of a stream
	Time   time.Duration // for the call; 0: Options.Timeout. a stream of answers has it for the question, one of questions for each of them, where nothing else is declared
	Waits  bool          // for what is not there yet: has a place among those who wait
	Rate   int           // calls a second from one stranger's address; 0: Options.Rate
	Flight int           // of strangers' calls at a time; 0: as many as get in
}

// Sizes of messages, in bytes.
const (
	small       = 4 << 10
	usual       = 64 << 10
	transaction = 7 << 18 // an entry is 1 MiB at most, in base64 a third more
	answers     = 7 << 20 // two of three receipts' worth: one of the largest entry, with its chain, fits
	chunk       = 256 << 10
	objectTime  = 5 * time.Minute // for a client to hand in an object
)

// Limited is the table of limits: each procedure that a node answers has a row, and what has
// none is not answered. Nothing of a call is unpacked or kept before it is held to its row.
var Limited = map[string]Limits{
	api.LedgerServiceExecuteProcedure:        {In: transaction, Values: 8 * maxOperations, Out: small},
	api.LedgerServicePipelineProcedure:       {In: transaction, Values: 16 * maxBatch, Out: 1 << 20, Flight: 256},
	api.LedgerServiceReadProcedure:           {In: transaction, Values: 2 * maxKeys, Out: answers, Flight: 128},
	api.LedgerServiceTailProcedure:           {In: small, Values: 8, Out: maxTailBytes + small, Waits: true},
	api.LedgerServiceGetCheckpointProcedure:  {In: small, Values: 8, Out: usual},
	api.LedgerServiceGetReceiptsProcedure:    {In: small, Values: 2 * maxReceipts, Out: answers, Rate: 100, Flight: 16},
	api.LedgerServiceGetConsistencyProcedure: {In: usual, Values: 8, Out: answers, Rate: 100, Flight: 16},

	api.DomainServiceShowProcedure:    {In: small, Values: 8, Out: answers, Rate: 100, Flight: 16},
	api.DomainServiceSubmitProcedure:  {In: transaction, Values: 8, Out: small, Waits: true, Rate: 100},
	api.DomainServiceTickProcedure:    {In: small, Values: 8, Out: small},
	api.DomainServiceStatusProcedure:  {In: small, Values: 8, Out: usual},
	api.DomainServiceGetHeadProcedure: {In: small, Values: 8, Out: small, Rate: 100, Flight: 16},

	api.HostServiceNonceProcedure:       {In: small, Values: 8, Out: small},
	api.HostServiceAdmitProcedure:       {From: Host, Values: 8, Out: usual},
	api.HostServiceRenewProcedure:       {From: Host, Values: 8, Out: usual},
	api.HostServiceIssueSVIDProcedure:   {In: small, Values: 8, Out: usual},
	api.HostServiceReleaseProcedure:     {In: usual, Values: 16, Out: usual},
	api.HostServiceListHostsProcedure:   {In: small, Values: 8, Out: answers, Rate: 100, Flight: 16},
	api.HostServiceListKeysProcedure:    {In: small, Values: 8, Out: answers, Rate: 100, Flight: 16},
	api.HostServiceGetStateProcedure:    {In: usual, Values: 2 * maxStateKeys, Out: answers, Flight: 64},
	api.HostServicePutObjectProcedure:   {In: maxChunk + small, Values: 8, Out: small, Time: objectTime, Rate: 50, Flight: 16},
	api.HostServiceGetObjectProcedure:   {In: small, Values: 8, Out: chunk + small, Flight: 64},
	api.HostServiceReadArchiveProcedure: {In: usual, Values: 8, Out: 1 << 40, Rate: 10, Flight: 2}, // who asks shows members' signatures, each once
	api.HostServiceWatchHostsProcedure:  {In: small, Values: 8, Out: 1 << 20, Waits: true},

	api.NodeServiceWitnessProcedure:        {From: Node, Values: 16 * maxBatch, Out: 4 << 20},
	api.NodeServiceCertifyNodeProcedure:    {From: Host, In: 2 * usual, Values: 8, Out: usual},
	api.NodeServiceGetRulingProcedure:      {From: Node, In: small, Values: 8, Out: usual},
	api.NodeServiceGetStateDigestProcedure: {From: Node, In: small, Values: 8, Out: usual},
	api.NodeServiceExchangeHeadsProcedure:  {From: Node, In: 512 * MaxHeard, Values: 2 * MaxHeard, Out: 512 * MaxHeard},
}

// What a class has altogether.
type share struct {
	memory  int64 // bytes, of which each byte that is read takes eight and each that is answered two
	calls   int   // at a time; 0: Options.InFlight
	waiters int   // at a time
	of      int   // of them of one address or key
}

// shares bound what all callers of a class have at a time.
var shares = [Classes]share{
	Stranger: {64 << 20, 4096, 64, 16},
	Client:   {128 << 20, 0, 1024, 1024},
	Host:     {128 << 20, 0, 1024, 16},
	Node:     {128 << 20, 0, 1024, 64},
}

// How fast strangers' messages are read, in bytes a second: of one address, and of all.
const (
	strangerPace  = 2 << 20
	strangersPace = 16 << 20
)

// What memory is charged for a byte.
const (
	perRead     = 8 // as it comes, by the library that reads and unpacks it, and in what it becomes
	perAnswered = 2 // in the message, and as it is sent
	perHeld     = 3 // of a transaction, until it has an outcome
)

// row is a procedure with its limits.
type row struct {
	Limits
	procedure string
	message   protoreflect.MessageDescriptor // that is sent
	sends     bool                           // a stream
	endless   bool                           // which goes on as long as the client likes
	rate      *Rate
	flight    *places // of strangers; nil if they are not counted
}

// rows makes the table of a node. A procedure of the API without limits is a defect, which
// a test finds.
func rows(opts *Options) map[string]*row {
	out := map[string]*row{}
	common := NewRate(opts.Rate)
	for _, f := range []protoreflect.FileDescriptor{apiv1.File_v1_ledger_proto, apiv1.File_v1_host_proto} {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				r := &row{procedure: "/" + string(s.FullName()) + "/" + string(m.Name()), message: m.Input(), sends: m.IsStreamingClient(), rate: common}
				limits, ok := Limited[r.procedure]
				if !ok {
					continue
				}
				r.hold(limits, opts)
				out[r.procedure] = r
			}
		}
	}
	for p, asked := range described { // which has no message of the API's: of what it has, each field counts
		r := &row{procedure: p, message: (&apiv1.ShowRequest{}).ProtoReflect().Descriptor(), sends: asked.Time > 0, rate: common}
		r.hold(asked, opts)
		out[p] = r
	}
	return out
}

// hold has the row take limits.
func (r *row) hold(limits Limits, opts *Options) {
	r.Limits = limits
	if r.Time == 0 {
		r.Time, r.endless = opts.Timeout, r.sends
	}
	if r.Rate > 0 && opts.Rate > 0 {
		r.rate = NewRate(min(r.Rate, opts.Rate))
	}
	if r.Flight > 0 {
		r.flight = &places{what: "calls of " + path.Base(r.procedure), most: r.Flight, of: max(1, r.Flight/4)}
	}
}
