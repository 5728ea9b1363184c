export { type Cache, type CacheStats, createCache, type Invalidation } from './cache.ts'
export { canonical } from './canonical.ts'
export type { FetchCallOptions, FetchOptions } from './fetch.ts'
export { type KeyOptions, keyOf } from './key.ts'
export { type WithCacheOptions, withCache } from './layer.ts'
// The import for its effect on CallOptions: it adds the key `cache`.
export type { CacheableFetch, CacheCallOptions, CacheOptions, WrapOptions } from './options.ts'
export type { Encryption } from './sealer.ts'
export type { Store } from './store.ts'
