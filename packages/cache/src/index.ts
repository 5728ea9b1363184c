export { type Cache, type CacheStats, createCache } from './cache.ts'
export { canonical } from './canonical.ts'
export { type KeyOptions, keyOf } from './key.ts'
export { type WithCacheOptions, withCache } from './layer.ts'
// The import for its effect on CallOptions: it adds the key `cache`.
export type { CacheCallOptions, CacheOptions, WrapOptions } from './options.ts'
export type { Store } from './store.ts'
