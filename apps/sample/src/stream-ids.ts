import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'

/** Ids of streams that say whose they are, so that each replica knows it without asking anybody. */
export interface StreamIds {
  make(tenant: string | undefined): string
  /** Whether the stream was begun for this tenant; what follows the 22 characters of the id is not looked at. */
  belongs(id: string, tenant: string | undefined): boolean
}

/** Bytes that nobody guesses, and bytes that only who knows the tokens can make: together the 16 that `createStreams` wants. */
const randomLength = 10
const sealLength = 6

/** `secrets` are the tokens of the gateway: replicas with the same ones know each other's streams. */
export function createStreamIds(secrets: readonly string[]): StreamIds {
  const key = createHash('sha256').update(JSON.stringify(secrets)).digest()

  function seal(random: Buffer, tenant: string | undefined): Buffer {
    return createHmac('sha256', key)
      .update(random)
      .update(JSON.stringify(tenant ?? null))
      .digest()
      .subarray(0, sealLength)
  }

  return {
    make(tenant) {
      const random = randomBytes(randomLength)
      return Buffer.concat([random, seal(random, tenant)]).toString('base64url')
    },
    belongs(id, tenant) {
      const bytes = Buffer.from(id.slice(0, 22), 'base64url')
      if (bytes.length !== randomLength + sealLength) return false
      return timingSafeEqual(bytes.subarray(randomLength), seal(bytes.subarray(0, randomLength), tenant))
    }
  }
}
