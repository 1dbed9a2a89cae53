package evidence

// TPMKeys is how a TPM introduces itself to a verifier that does not know its
// attestation key yet. Nothing in it is believed before credential activation.
type TPMKeys struct {
	AKPublic      []byte   // TPMT_PUBLIC
	EKPublic      []byte   // TPMT_PUBLIC
	EKCertificate [][]byte // DER, leaf first
}

// A Credential is a secret that a verifier encrypted so that only one TPM opens it,
// and only beside one attestation key (TPM 2.0 Part 1, 24). Anyone may see it.
type Credential struct {
	Blob   []byte // contents of TPM2B_ID_OBJECT
	Secret []byte // contents of TPM2B_ENCRYPTED_SECRET
}
