"""Operations on packed rows: attention within segments, rotary positions, pooling by segment."""
