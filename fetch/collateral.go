package fetch

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/nitro"
	"github.com/keystead/keystead/evidence/sgx"
	"github.com/keystead/keystead/evidence/snp"
	"github.com/keystead/keystead/evidence/tdx"
)

// collateralRoot is a vendor's root certificate, which a bundle carries for people;
// what counts are the roots that a verifier pinned. Name: nitro.
const collateralRoot = "aws-root"

// The vendors' services. None is trusted: vendors sign what they publish.
const (
	AMDService         = "https://kdsintf.amd.com"                        // VCEK Certificate and KDS Interface Specification
	IntelService       = "https://api.trustedservices.intel.com"          // Provisioning Certification Service, version 4
	IntelRoot          = "https://certificates.trustedservices.intel.com" // the root's revocation list
	AWSService         = "https://aws-nitro-enclaves.amazonaws.com"       // the root of Nitro
	maxCollateralPiece = 1 << 20                                          // bytes
)

// Wanted is a piece of collateral and where it is published.
type Wanted struct {
	Kind, Name string
	URL        string
	chain      string // header with whoever signed it
	unpack     bool   // a zip that holds a root certificate
}

// Services are where to ask; an empty one is the vendor's own. A mirror serves the same
// paths: Intel's caching service (PCCS) does.
type Services struct{ AMD, Intel, IntelRoot, AWS string }

func (s Services) orOwn() Services {
	or := func(a, b string) string {
		if a == "" {
			return b
		}
		return a
	}
	return Services{or(s.AMD, AMDService), or(s.Intel, IntelService), or(s.IntelRoot, IntelRoot), or(s.AWS, AWSService)}
}

// WantedFor returns what is needed to judge a bundle's evidence of a TEE; nothing of the
// evidence is verified. Product is that of SNP reports which do not say (before version
// 3): Milan, Genoa or Turin.
func WantedFor(t *evidence.TEE, product string, s Services) ([]Wanted, error) {
	s = s.orOwn()
	switch {
	case t == nil:
		return nil, errors.New("the bundle has no evidence of a trusted execution environment")
	case t.Kind == evidence.KindSNP:
		return wantedSNP(t, product, s)
	case t.Kind == evidence.KindNitro:
		if _, err := nitro.Parse(t.Report); err != nil {
			return nil, err
		}
		return []Wanted{{Kind: collateralRoot, Name: "nitro", URL: s.AWS + "/AWS_NitroEnclaves_Root-G1.zip", unpack: true}}, nil
	}
	quote, err := openQuote(t)
	if err != nil {
		return nil, err
	}
	fmspc, authority, err := quote.Machine()
	if err != nil {
		return nil, err
	}
	base := s.Intel + "/" + t.Kind + "/certification/v4"
	return []Wanted{
		{Kind: evidence.CollateralIntelTCBInfo, Name: t.Kind + "/" + fmspc, URL: base + "/tcb?fmspc=" + fmspc, chain: "Tcb-Info-Issuer-Chain"},
		{Kind: evidence.CollateralIntelQEIdentity, Name: t.Kind, URL: base + "/qe/identity", chain: "Sgx-Enclave-Identity-Issuer-Chain"},
		{Kind: evidence.CollateralIntelPCKCRL, Name: authority, URL: s.Intel + "/sgx/certification/v4/pckcrl?ca=" + authority + "&encoding=der"},
		{Kind: evidence.CollateralIntelRootCRL, Name: "root", URL: s.IntelRoot + "/IntelSGXRootCA.der"},
	}, nil
}

type quote interface {
	Machine() (fmspc, authority string, err error)
}

func openQuote(t *evidence.TEE) (quote, error) {
	if t.Kind == evidence.KindSGX {
		return sgx.Parse(t.Report)
	}
	return tdx.Parse(t.Report)
}

func wantedSNP(t *evidence.TEE, product string, s Services) ([]Wanted, error) {
	r, err := snp.Parse(t.Report)
	if err != nil {
		return nil, err
	}
	if p := r.Product(); p != "" {
		product = string(p)
	}
	if product == "" {
		return nil, errors.New("the report does not say which product it is of: name it, Milan, Genoa or Turin")
	}
	kind := r.KeyName()
	base := fmt.Sprintf("%s/%s/v1/%s", s.AMD, kind, url.PathEscape(product))
	out := []Wanted{
		{Kind: evidence.CollateralAMDChain, Name: kind + "/" + product, URL: base + "/cert_chain"},
		{Kind: evidence.CollateralAMDCRL, Name: kind + "/" + product, URL: base + "/crl"},
	}
	if kind == "vcek" {
		p, id := snp.Product(product), r.ChipID
		names := []string{"blSPL", "teeSPL", "snpSPL", "ucodeSPL", "fmcSPL"}
		if p == snp.Turin {
			id = id[:8]
		}
		query := url.Values{}
		for i, level := range p.Levels(r.ReportedTCB) {
			query.Set(names[i], fmt.Sprint(level))
		}
		out = append(out, Wanted{Kind: evidence.CollateralAMDKey, Name: snp.PieceName(r), URL: base + "/" + hex.EncodeToString(id) + "?" + query.Encode()})
	}
	return out, nil
}

// Collateral gets what is wanted, each once, and makes a bundle dated at. Progress is
// told each address; it may be nil.
func Collateral(ctx context.Context, wanted []Wanted, at time.Time, progress func(Wanted)) (*evidence.Collateral, error) {
	t, pieces := newTransport(), map[[2]string]evidence.Piece{}
	for _, w := range wanted {
		key := [2]string{w.Kind, w.Name}
		if _, have := pieces[key]; have {
			continue
		}
		if progress != nil {
			progress(w)
		}
		p, err := w.get(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", w.Kind, w.Name, err)
		}
		pieces[key] = p
	}
	return evidence.NewCollateral(at, slices.Collect(maps.Values(pieces)))
}

func (w Wanted) get(ctx context.Context, t *transport) (evidence.Piece, error) {
	p := evidence.Piece{Kind: w.Kind, Name: w.Name, Source: redacted(w.URL)}
	data, header, err := t.getWithHeader(ctx, w.URL, maxCollateralPiece)
	if err != nil {
		return p, err
	}
	p.Data = data
	if w.chain != "" {
		chain, err := url.QueryUnescape(header.Get(w.chain))
		if err != nil || chain == "" {
			return p, fmt.Errorf("%s: the answer does not say who signed it (header %s)", p.Source, w.chain)
		}
		p.Chain = []byte(chain)
	}
	if w.unpack {
		p.Data, err = unpackRoot(data)
	}
	return p, err
}

// unpackRoot returns root.pem of AWS's archive.
func unpackRoot(archive []byte) ([]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, err
	}
	f, err := z.Open("root.pem")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readAll(f, maxCollateralPiece)
	if err == nil && len(b) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
